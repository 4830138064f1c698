"""A node: holds a portion of each partition, gathers inputs, executes stages, and hands the outputs on.

It knows no transport: it is a handler (`Node.handle`) that any number of transports serve at once, and it sends through
a `Dispatcher`. Several requests, of several clients, may be in it at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from cluster.debts import Debts
from cluster.dispatcher import FAILURE_NOTICE_TIMEOUT, Dispatcher
from cluster.errors import Draining, NotAwaited, StageFailed, StaleEpoch
from cluster.flows import FLOWS, Errand, Produced
from cluster.inbox import Inbox
from cluster.lanes import HERE, Lanes
from cluster.occupants import Occupants
from cluster.partition import Partition
from cluster.pinning import usable
from cluster.request import Request, RequestStats
from partitioning.plan import Edge, Stage
from transports.base import Array, Message
from transports.errors import DeadlineExceeded, MalformedMessage, ResourceExhausted, WireError

log = logging.getLogger("splitbench.cluster")

HANDS = 2
"""The most threads that execute stages of what was acknowledged (flow `forward`), and no more than there are cores: two
stages that share a core push each other out of its caches. Each address that is sent to has one thread more."""
WAITING = 256
"""Messages that may wait for them all; one more is refused, so that memory stays bounded under any load."""
BEHIND = WAITING // 4
"""Messages that may wait for one address, so that there is room for others while nobody answers there."""

Execute = Callable[[Sequence[Any], float], list[Any]]
"""A stage under an engine: its inputs in order (arrays, or what another stage gave), and the seconds that it may take
where it has to wait for somebody else -> its outputs, opaque here."""


@dataclass(frozen=True, eq=False)
class Shard:
    """What one server holds of one partition under one engine."""

    partition: Partition
    server: int
    execute: Mapping[str, Execute]
    to_array: Callable[[Any], Array]
    inbox: Inbox = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inbox", Inbox(self.partition.portion(self.server)))


class Node:
    """The handler of one server. `shards` by (partition name, engine)."""

    def __init__(
        self, shards: Mapping[tuple[str, str], Shard], dispatcher: Dispatcher, epoch: Callable[[], int] = lambda: 0
    ) -> None:
        """`epoch`: that of the server's lease at this moment. What was meant for another one is refused."""
        self._shards = shards
        self._epoch = epoch
        self.dispatcher = dispatcher
        self.debts = Debts()
        self._occupants = Occupants(self._awaits, self._awaits_any)
        self._lanes = Lanes(lambda: min(HANDS, usable()), BEHIND, WAITING)
        self._room = threading.BoundedSemaphore(WAITING)

    def handle(self, message: Message) -> Message:
        """Answer `infer` as the request's flow does. What is late of any other request is forgotten on the way."""
        if message.method != "infer":
            raise MalformedMessage(f"a node has no method {message.method!r}: it has 'infer'")
        self._check_epoch(message)
        self._evict()
        request = Request.of(message.fields)
        portion = self._portion(request)
        for name, tensor in message.tensors.items():
            _check_arrival(portion, name, tensor)
        with self._occupants.visit(request.id):
            return FLOWS[request.route.flow].answer(_Visit(self, request, portion, message))

    def later(self, request: Request, errand: Errand) -> None:
        """Have `errand` of `request` done by few threads. Raises `ResourceExhausted` where too much waits already."""
        if not self._room.acquire(blocking=False):
            raise ResourceExhausted(f"{WAITING} messages wait at this server already")
        self._occupants.enter(request.id)
        self._advance(request, errand, None)

    def drain(self, seconds: float) -> None:
        """Begin no new request, and wait up to `seconds` until those that are here have left."""
        self._occupants.drain(seconds)

    def close(self) -> None:
        """Begin nothing more of what waits, and tell the clients, for whom there is one short time together."""
        for work in self._lanes.take_back(HERE):
            work(Draining("the server ended before it came to this request"))
        self._lanes.close(FAILURE_NOTICE_TIMEOUT)

    def _check_epoch(self, message: Message) -> None:
        meant, held = message.fields.get("epoch"), self._epoch()
        if meant != held:
            raise StaleEpoch(f"the message is meant for the holder of epoch {meant}; this server's is {held}")

    def _evict(self) -> None:
        for portion in list(self._shards.values()):  # some of which may still be loading
            portion.inbox.evict()
        self.debts.evict()

    def _advance(self, request: Request, errand: Errand, error: WireError | None) -> None:
        """Let `errand` do its next step, or raise `error` in it; and have it wait in the lane where it goes on."""
        try:
            lane = next(errand) if error is None else errand.throw(error)
        except StopIteration:
            self._leave(request)
        except Exception as lost:  # not even its client can be told
            log.warning("request %s was given up: %s", request.id, lost)
            self._leave(request)
        else:
            # What tells a client of an error is not refused for want of room: nobody else would tell it.
            self._lanes.put(lane, partial(self._advance, request, errand), refusable=error is None)

    def _leave(self, request: Request) -> None:
        self._room.release()
        self._occupants.leave(request.id)

    def _awaits(self, request: str) -> bool:
        return any(request in portion.inbox for portion in self._shards.values())

    def _awaits_any(self) -> bool:
        return any(len(portion.inbox) for portion in self._shards.values())

    def _portion(self, request: Request) -> Shard:
        key = (request.route.partition, request.route.engine)
        if key not in self._shards:
            raise NotAwaited(f"this server holds nothing of partition {key[0]!r} under engine {key[1]!r}")
        return self._shards[key]


class _Visit:
    """A message at this server: what `flows.Visit` asks for."""

    def __init__(self, node: Node, request: Request, portion: Shard, message: Message) -> None:
        self.request = request
        self.partition = portion.partition
        self.dispatcher = node.dispatcher
        self._node = node
        self._portion = portion
        self._message = message

    def run(self) -> Produced:
        """Run every stage that the message completes, and those that these complete: the document's local calls.

        Only what leaves this server, or the model, becomes an array.
        """
        request, portion = self.request, self._portion
        local_calls = request.route.local_calls
        outputs: dict[str, Array] = {}
        leaving: dict[str, Array] = {}
        clock = _Stopwatch()

        def execute(stage: Stage, inputs: list[Any]) -> list[Any]:
            if request.remaining <= 0:
                raise DeadlineExceeded(f"request {request.id}: no time left for stage {stage.name!r}")
            with clock:
                return _execute(portion, stage, inputs, request.remaining)

        cascade = portion.inbox.cascade(
            request.id, request.deadline, self._message.tensors, execute, local_calls=local_calls
        )
        for _, values in cascade:
            with clock:
                away = {name for name in values if self.partition.destinations(name, local_calls)}
                final = {name for name in values if name in self.partition.plan.outputs}
                arrays = {name: portion.to_array(values[name]) for name in values if name in away | final}
                leaving |= {name: arrays[name] for name in arrays if name in away}
                outputs |= {name: arrays[name] for name in arrays if name in final}
        return Produced(outputs, leaving, RequestStats(compute=clock.seconds))

    def later(self, errand: Errand) -> None:
        self._node.later(self.request, errand)

    def carried(self) -> None:
        """Take over what the message says of its request's cost, its own included."""
        message = self._message
        self.owe(RequestStats.of(message) + RequestStats(messages=1, payload=message.payload))

    def owe(self, cost: RequestStats) -> None:
        self._node.debts.owe(self.request, cost)

    def settle(self) -> RequestStats:
        return self._node.debts.settle(self.request)


class _Stopwatch:
    """Adds up the seconds spent inside of its `with` blocks."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.seconds += time.perf_counter() - self._start


def _execute(portion: Shard, stage: Stage, inputs: list[Any], remaining: float) -> list[Any]:
    try:
        return portion.execute[stage.name](inputs, remaining)
    except WireError:
        raise
    except Exception as error:
        log.exception("stage %r failed", stage.name)
        text = f"stage {stage.name!r} on server {portion.server} failed with {type(error).__name__}"
        raise StageFailed(text) from error


def _check_arrival(portion: Shard, name: str, tensor: Array) -> None:
    if not portion.inbox.awaits(name):
        raise NotAwaited(f"tensor {name!r} came to server {portion.server}, where no stage awaits it")
    wire: Edge = portion.partition.plan.edges[name]
    fits = len(wire.shape) == tensor.ndim and all(
        expected in (None, extent) for expected, extent in zip(wire.shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype.name != wire.dtype:
        came = f"{tensor.dtype.name}{list(tensor.shape)}"
        raise MalformedMessage(f"tensor {name!r}: expected {wire.dtype}{list(wire.shape)}, {came} came")
