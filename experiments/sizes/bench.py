"""Times echoes of one tensor over every way to send it, by size: who grows how. `experiments.sizes` is the command.

Rules:
  - One process answers over all ways, so that only the wire differs. A sample is one call: the tensor goes there and
    comes back, each time from and to an array in memory.
  - Every way is first tried from the smallest size upwards, and each answer is held against what was sent. A size for
    which one call would take longer than `Study.longest` is left out, with all above it; that is said in the report.
  - Then come the rounds. In each, every pair of way and size has a short turn, in an order of its own, so that the
    machine's drift meets all alike. A turn begins with a call that does not count, unless a call takes very long.
  - The tensor is noise, of which zlib (RPyC's default) leaves nine tenths.
"""

from __future__ import annotations

import contextlib
import math
import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

import transports
from cluster.launch import HINDSIGHT
from experiments.measure import wire
from experiments.measure.progress import Progress
from experiments.sizes import echo
from experiments.spec.paths import nameless
from experiments.store import rows
from transports import Connection, Message
from transports.errors import MessageTooLarge, SplitbenchError, WireError
from transports.process import MALLOC

MB = 1_000_000
ITEM = 4
"""Bytes of a float32."""
SENDS: Mapping[tuple[str, str], tuple[str, ...]] = {("grpc", "raw"): ("unary", "stream")}
"""(transport, codec) -> values of its option `send` that are ways of their own."""

TURN, CALLS, SLOW = 0.5, 10, 1.0
"""A turn: so many seconds and so many calls at the most; where a call takes `SLOW` seconds, all of them count."""
NOTICEABLE = 0.05
"""Seconds below which a call says nothing of how long a larger one takes."""
COLUMNS = ("way", "transport", "codec", "send", "bytes", "round", "run", "seconds", "wire_bytes")


@dataclass(frozen=True)
class Way:
    """A transport in one of its codecs, and how it sends a message where it has several ways to."""

    transport: str
    codec: str = "raw"
    send: str = ""

    @property
    def name(self) -> str:
        return " ".join(filter(None, (self.transport, self.codec if self.codec != "raw" else "", self.send)))

    def connect(self, address: transports.Address, options: Mapping[str, str]) -> Connection:
        own = {f"{self.transport}.send": self.send} if self.send else {}
        return transports.make(self.transport, {**options, **own}).connect(address, self.codec)


@dataclass(frozen=True)
class Study:
    """What is compared: every way at every size (bytes of the tensor, ascending)."""

    ways: tuple[Way, ...]
    sizes: tuple[int, ...]
    repeats: int = 5
    longest: float = 5.0
    """Seconds that one call may take."""
    seed: int = 0
    option: Mapping[str, str] = field(default_factory=dict)
    malloc: str = MALLOC[0]
    """What both processes do with memory that a message has left: as `--malloc` of an experiment."""

    def record(self) -> dict[str, Any]:
        """For environment.json, and back with `from_record`."""
        return asdict(self) | {"kind": "sizes", "option": nameless(self.option)}

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Study:
        values = {name: record[name] for name in ("repeats", "longest", "seed", "option")}
        values["malloc"] = record.get("malloc", "default")  # records from before the flag
        return cls(tuple(Way(**way) for way in record["ways"]), tuple(record["sizes"]), **values)

    @property
    def options(self) -> dict[str, str]:
        """Of every transport, for both ends: messages as large as these, and as slow as the slowest may be."""
        wide = {"max_message": str(self.sizes[-1]), "stall": str(self.deadline)}
        names = dict.fromkeys(way.transport for way in self.ways)
        return {f"{name}.{key}": value for name in names for key, value in wide.items()} | dict(self.option)

    @property
    def deadline(self) -> float:
        """Seconds after which a call has failed: it was expected to take `longest` at the most."""
        return 60 + 10 * self.longest


@dataclass(frozen=True)
class Sample:
    """One timed call. `bytes` are those of the tensor, which goes both ways."""

    way: Way
    bytes: int
    round: int
    run: int
    seconds: float
    wire_bytes: float

    def row(self) -> Mapping[str, Any]:
        return vars(self) | vars(self.way) | {"way": self.way.name}


def ways_of(names: Sequence[str], codecs: Sequence[str] | None = None) -> tuple[Way, ...]:
    """Every way to send over the transports `names`, in all their codecs or those that are among `codecs`."""
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
    """Write a row for each timed call, before the next one begins.

    `left_out` is told of each way that is not measured at all sizes, with the reason. Raises the `WireError` of a call
    that failed, and `SplitbenchError` for an answer that is not what was sent. Nothing is left running.
    """
    names = dict.fromkeys(way.transport for way in study.ways)
    with (
        echo.process(*names, options=study.options, malloc=study.malloc) as (found, child),
        contextlib.ExitStack() as stack,
    ):
        connections = {way: stack.enter_context(way.connect(found[way.transport], study.options)) for way in study.ways}
        bench = Bench(study, connections, child)
        expected: dict[tuple[Way, int], float] = {}
        for way in study.ways:
            notify(f"trying {way.name}")
            expected |= dict(bench.attempts(way, left_out))
        _rounds(bench, expected, writer)


def _rounds(bench: Bench, expected: Mapping[tuple[Way, int], float], writer: rows.Writer) -> None:
    pairs, chance = list(expected), random.Random(bench.study.seed)
    runs: Counter[tuple[Way, int]] = Counter()
    total = bench.study.repeats * sum(_calls(seconds) for seconds in expected.values())
    with Progress(total, [way.name for way in bench.study.ways]) as progress:
        for number in range(bench.study.repeats):
            chance.shuffle(pairs)
            for pair in pairs:
                for seconds, crossed in bench.turn(*pair, expected[pair]):
                    way, size = pair
                    writer.append(Sample(way, size, number, runs[pair], seconds, crossed))
                    runs[pair] += 1
                    progress.advance(f"{way.name}, {megabytes(size)}", seconds)


def _calls(expected: float) -> int:
    """Timed calls in a turn of one that takes so long."""
    return max(1, min(CALLS, int(TURN / expected)))


class Bench:
    """Connections to the process that echoes, and the noise that they carry."""

    def __init__(self, study: Study, connections: Mapping[Way, Connection], child: subprocess.Popen[str]) -> None:
        self.study = study
        self._connections = connections
        self._child = child
        self._noise: NDArray[np.float32] = np.random.default_rng(study.seed).standard_normal(
            study.sizes[-1] // ITEM, dtype=np.float32
        )

    def attempts(self, way: Way, left_out: Callable[[Way, str], None]) -> Iterator[tuple[tuple[Way, int], float]]:
        """((way, size), seconds that a call takes) of every size up to the first that takes too long."""
        known: list[tuple[int, float]] = []
        for size in self.study.sizes:
            expected = predicted(known, size)
            if expected > self.study.longest:
                left_out(way, f"from {megabytes(size)} on, where one call would take some {expected:.2g} s")
                return
            try:
                seconds = self._attempt(way, size)
            except MessageTooLarge as error:
                left_out(way, f"from {megabytes(size)} on: {error}")
                return
            if seconds > self.study.longest:
                left_out(way, f"from {megabytes(size)} on, where one call took {seconds:.2g} s")
                return
            known.append((size, seconds))
            yield (way, size), seconds

    def _attempt(self, way: Way, size: int) -> float:
        """Seconds; the less of two calls, since whatever disturbs one makes it longer."""
        seconds = self._call(way, size, check=True)[0]
        return min(seconds, self._call(way, size)[0]) if seconds < SLOW else seconds

    def turn(self, way: Way, size: int, expected: float) -> Iterator[tuple[float, float]]:
        """(seconds, bytes on the wire) of each call that counts."""
        if expected < SLOW:
            self._call(way, size)
        for _ in range(_calls(expected)):
            yield self._call(way, size)

    def _call(self, way: Way, size: int, check: bool = False) -> tuple[float, float]:
        sent = self._noise[: size // ITEM]
        message = Message("echo", {}, {"x": sent})
        before = wire.sent()
        try:
            start = time.perf_counter()
            reply = self._connections[way].call(message, self.study.deadline)
            seconds = time.perf_counter() - start
        except MessageTooLarge:
            raise
        except WireError as error:
            raise type(error)(f"{way.name}, {megabytes(size)}: {error}{self._ending()}") from error
        crossed = wire.sent() - before
        if check and not np.array_equal(reply.tensors["x"], sent):
            raise SplitbenchError(f"{way.name}, {megabytes(size)}: what came back is not what was sent")
        return seconds, crossed

    def _ending(self) -> str:
        """How the process that echoes has ended, if it has: a connection is seen to close before its process is."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return f"; the echo process ended with status {self._child.wait(HINDSIGHT)}"
        return ""


def predicted(known: Sequence[tuple[int, float]], size: int) -> float:
    """Seconds for `size`, if it grows as it did between the two largest that are `known` (at least linearly)."""
    if not known or known[-1][1] < NOTICEABLE:
        return 0.0
    (last, seconds), exponent = known[-1], 1.0
    if len(known) > 1:
        before, fewer = known[-2]
        exponent = math.log(seconds / fewer) / math.log(last / before)
    return float(seconds * (size / last) ** min(2.0, max(1.0, exponent)))
