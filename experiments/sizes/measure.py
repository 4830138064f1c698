"""Times echoes of one tensor, by its size, over each transport, codec and way of sending.

Rules:
  - In a round one other process echoes over all transports, so that only the transport differs. A sample is one call:
    the tensor goes there and back, from an array in memory to an array in memory.
  - Each round has a new process, since a process places its memory and its threads once, and all its echoes share that.
  - First each way is tried from the smallest size upwards, and each echo is compared with the tensor that was sent. A
    size at which one call would take longer than `Study.longest`, and all larger sizes, are left out; the report says
    so.
  - Then rounds follow. In a round every pair of way and size has one short turn, in shuffled order, so that drift of
    the machine affects all pairs alike. A turn starts with an uncounted call, unless a call takes very long.
  - The tensor is noise; zlib (RPyC's default) compresses it to nine tenths.
"""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import transports
from cluster.idle import IDLE
from cluster.launchers import HINDSIGHT
from experiments.measure import wire
from experiments.measure.progress import Progress
from experiments.sizes import echo
from experiments.sizes.bare import BARE, BareConnection
from experiments.spec.paths import nameless
from experiments.store import rows
from experiments.store.environment import UNCOUNTED
from transports import Connection, Message
from transports.errors import MessageTooLarge, SplitbenchError, WireError
from transports.process import MALLOC

MB = 1_000_000
ITEM = 4
"""Bytes of a float32."""
SENDS: Mapping[tuple[str, str], tuple[str, ...]] = {("grpc", "raw"): ("unary", "stream")}
"""(transport, codec) -> the values of the option `send` that are measured separately."""

TURN, CALLS, SLOW = 0.5, 10, 1.0
"""Most seconds and most calls of a turn. If a call takes at least `SLOW` seconds, every call counts."""
WARM_UP, WARM_UP_SECONDS = 200, 0.3
"""Uncounted calls of each way with a new process, and the seconds after which there are no more. Python executes code
faster after some dozen calls (PEP 659)."""
NOTICEABLE = 0.05
"""Only calls that take at least this many seconds predict the time of a call with a larger tensor."""
COLUMNS = ("way", "transport", "codec", "send", "bytes", "round", "run", "seconds", "wire_bytes")

AnyConnection = Connection | BareConnection


@dataclass(frozen=True)
class Way:
    """A transport, one of its codecs, and the value of its option `send` if it has several."""

    transport: str
    codec: str = "raw"
    send: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.transport, self.codec if self.codec != "raw" else "", self.send)))

    def connect(self, address: transports.Address, options: Mapping[str, str]) -> AnyConnection:
        if self.transport in BARE:
            return BareConnection(self.transport, address)
        own = {f"{self.transport}.send": self.send} if self.send else {}
        return transports.make(self.transport, {**options, **own}).connect(address, self.codec)


@dataclass(frozen=True)
class Study:
    """The settings: every way is measured at every size (bytes of the tensor, ascending)."""

    ways: tuple[Way, ...]
    sizes: tuple[int, ...]
    repeats: int = 5
    longest: float = 5.0
    """The most seconds that one call may take."""
    seed: int = 0
    option: Mapping[str, str] = field(default_factory=dict)
    malloc: str = MALLOC[0]
    """How both processes treat freed memory, as `--malloc` of a run says."""
    idle: str = IDLE[0]
    """What idle processors do, as `--idle` of a run says."""
    fresh: bool = True
    """Whether each round has a new process; False in older records."""

    def record(self) -> dict[str, Any]:
        """For environment.json; `from_record` reads it."""
        return asdict(self) | {"kind": "sizes", "option": nameless(self.option)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Study:
        values = {name: record[name] for name in ("repeats", "longest", "seed", "option")}
        values["malloc"] = record.get("malloc", "default")  # older records lack this value
        values["fresh"] = record.get("fresh", False)  # and this one
        values["idle"] = record.get("idle", IDLE[0])
        return cls(tuple(Way(**way) for way in record["ways"]), tuple(record["sizes"]), **values)

    @property
    def options(self) -> dict[str, str]:
        """Options of the transports at both ends: limits wide enough for the largest and the slowest message."""
        wide = {"max_message": str(self.sizes[-1]), "stall": str(self.deadline)}
        names = dict.fromkeys(way.transport for way in self.ways if way.transport not in BARE)
        return {f"{name}.{key}": value for name in names for key, value in wide.items()} | dict(self.option)

    @property
    def deadline(self) -> float:
        """Seconds after which a call fails; each is expected to take at most `longest`."""
        return 60 + 10 * self.longest


@dataclass(frozen=True)
class Sample:
    """One timed call. `bytes` is the size of the tensor, which is sent in both directions."""

    way: Way
    bytes: int
    round: int
    run: int
    seconds: float
    wire_bytes: float

    def row(self) -> Mapping[str, Any]:
        return vars(self) | vars(self.way) | {"way": self.way.name}


def ways_of(names: Sequence[str], codecs: Sequence[str] | None = None) -> tuple[Way, ...]:
    """Every way to send over the transports `names`, in all their codecs or only in `codecs`."""
    pairs = [(name, codec) for name in names for codec in transports.load(name).codecs]
    chosen = [pair for pair in pairs if codecs is None or pair[1] in codecs]
    return tuple(Way(*pair, send) for pair in chosen for send in SENDS.get(pair, ("",)))


def megabytes(size: int) -> str:
    """`"0.25 MB"`"""
    return f"{size / MB:g} MB"


def measure(
    study: Study,
    writer: rows.Writer,
    notify: Callable[[str], None],
    left_out: Callable[[Way, str], None],
) -> None:
    """Write a row for each timed call before the next call begins. No process is left running.

    `left_out` is called with each way that is not measured at all sizes, and the reason. Raises the `WireError` of a
    failed call, and `SplitbenchError` for an echo that differs from the tensor that was sent.
    """
    expected: dict[tuple[Way, int], float] = {}
    with _client(study) as client:
        for way in study.ways:
            notify(f"trying {way.name}")
            expected |= dict(client.attempts(way, left_out))
    pairs, rng = list(expected), random.Random(study.seed)
    runs: Counter[tuple[Way, int]] = Counter()
    total = study.repeats * sum(_calls(seconds) for seconds in expected.values())
    with Progress(total, [way.name for way in study.ways]) as progress:
        for number in range(study.repeats):
            rng.shuffle(pairs)
            with _client(study) as client:
                client.warm_up(pairs)
                for pair in pairs:
                    for seconds, crossed in client.turn(*pair, expected[pair]):
                        way, size = pair
                        writer.append(Sample(way, size, number, runs[pair], seconds, crossed))
                        runs[pair] += 1
                        progress.advance(f"{way.name}, {megabytes(size)}", seconds)


@contextlib.contextmanager
def _client(study: Study) -> Iterator[EchoClient]:
    """A new echo process, and connections to it."""
    names = dict.fromkeys(way.transport for way in study.ways)
    with (
        echo.process(*names, options=study.options, malloc=study.malloc) as (found, child),
        contextlib.ExitStack() as stack,
    ):
        connections: dict[Way, AnyConnection] = {}
        for way in study.ways:
            connections[way] = way.connect(found[way.transport], study.options)
            stack.callback(connections[way].close)
        yield EchoClient(study, connections, child)


def _calls(expected: float) -> int:
    """Timed calls in a turn, if one takes `expected` seconds."""
    return max(1, min(CALLS, int(TURN / expected)))


class EchoClient:
    """Sends noise to the echo process, over a connection for each way."""

    def __init__(self, study: Study, connections: Mapping[Way, AnyConnection], child: subprocess.Popen[str]) -> None:
        self.study = study
        self._connections = connections
        self._child = child
        self._noise: NDArray[np.float32] = np.random.default_rng(study.seed).standard_normal(
            study.sizes[-1] // ITEM, dtype=np.float32
        )

    def attempts(self, way: Way, left_out: Callable[[Way, str], None]) -> Iterator[tuple[tuple[Way, int], float]]:
        """((way, size), seconds of a call) for each size, ascending, until a call takes too long."""
        known: list[tuple[int, float]] = []
        for size in self.study.sizes:
            expected = predicted(known, size)
            if expected > self.study.longest:
                left_out(way, f"from {megabytes(size)} on, where one call would take some {expected:.2g} s")
                return
            try:
                seconds = self._call(way, size, check=True)[0]
                if seconds < SLOW:  # the smaller of two calls, since a disturbance only makes a call longer
                    seconds = min(seconds, self._call(way, size)[0])
            except MessageTooLarge as error:
                left_out(way, f"from {megabytes(size)} on: {error}")
                return
            if seconds > self.study.longest:
                left_out(way, f"from {megabytes(size)} on, where one call took {seconds:.2g} s")
                return
            known.append((size, seconds))
            yield (way, size), seconds

    def warm_up(self, pairs: Iterable[tuple[Way, int]]) -> None:
        """Uncounted calls of each way with the smallest tensor at which it is measured."""
        smallest: dict[Way, int] = {}
        for way, size in pairs:
            smallest[way] = min(size, smallest.get(way, size))
        for way, size in smallest.items():
            until = time.perf_counter() + WARM_UP_SECONDS
            for _ in range(WARM_UP):
                self._call(way, size)
                if time.perf_counter() > until:
                    break

    def turn(self, way: Way, size: int, expected: float) -> Iterator[tuple[float, float]]:
        """(seconds, bytes on the wire) of each counted call."""
        if expected < SLOW:
            self._call(way, size)
        for _ in range(_calls(expected)):
            yield self._call(way, size)

    def _call(self, way: Way, size: int, check: bool = False) -> tuple[float, float]:
        sent = self._noise[: size // ITEM]
        message = Message("echo", {}, {"x": sent})
        before = math.nan if way.transport in UNCOUNTED else wire.sent()
        try:
            start = time.perf_counter()
            reply = self._connections[way].call(message, self.study.deadline)
            seconds = time.perf_counter() - start
        except MessageTooLarge:
            raise
        except WireError as error:
            ending = ""
            with contextlib.suppress(subprocess.TimeoutExpired):  # a connection closes before its process has ended
                ending = f"; the echo process ended with status {self._child.wait(HINDSIGHT)}"
            raise type(error)(f"{way.name}, {megabytes(size)}: {error}{ending}") from error
        crossed = wire.sent() - before
        if check and not np.array_equal(reply.tensors["x"], sent):
            raise SplitbenchError(f"{way.name}, {megabytes(size)}: the echo differs from the tensor that was sent")
        return seconds, crossed


def predicted(known: Sequence[tuple[int, float]], size: int) -> float:
    """Seconds for `size`, extrapolated from the two largest sizes in `known`; the exponent is kept between 1 and 2."""
    if not known or known[-1][1] < NOTICEABLE:
        return 0.0
    (last, seconds), exponent = known[-1], 1.0
    if len(known) > 1:
        before, fewer = known[-2]
        exponent = math.log(seconds / fewer) / math.log(last / before)
    return float(seconds * (size / last) ** min(2.0, max(1.0, exponent)))
