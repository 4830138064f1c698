"""A node: holds a portion of each partition, gathers inputs, executes stages, and hands the outputs on.

It knows no transport: it is a handler (`Node.handle`) that any number of transports serve at once, and it sends through
a `Courier`. Several requests, of several clients, may be in it at a time.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster.courier import Courier
from cluster.errors import NotAwaited, StageFailed
from cluster.flows import FLOWS
from cluster.inbox import Inbox
from cluster.partition import Partition
from cluster.route import Request, Tally
from partitioning.plan import Stage, Wire
from transports.base import Array, Message
from transports.errors import DeadlineExceeded, MalformedMessage, WireError

__all__ = ["Node", "Portion"]

log = logging.getLogger("splitbench.cluster")

Execute = Callable[[Sequence[Any]], list[Any]]
"""A stage under an engine: its inputs in order (arrays, or what another stage gave) -> its outputs, opaque here."""


@dataclass(frozen=True, eq=False)
class Portion:
    """What one server holds of one partition under one engine."""

    partition: Partition
    server: int
    execute: Mapping[str, Execute]
    to_array: Callable[[Any], Array]
    inbox: Inbox = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "inbox", Inbox(self.partition.portion(self.server)))


class Node:
    """The handler of one server. `portions` by (partition name, engine)."""

    def __init__(self, portions: Mapping[tuple[str, str], Portion], courier: Courier) -> None:
        self._portions = portions
        self._courier = courier

    def handle(self, message: Message) -> Message:
        """Answer `infer` with the final outputs that came of the message's tensors: none while inputs are missing."""
        if message.method != "infer":
            raise MalformedMessage(f"a node has no method {message.method!r}: it has 'infer'")
        request = Request.of(message.fields)
        portion = self._portion(request)
        for name, tensor in message.tensors.items():
            _check_arrival(portion, name, tensor)
        produced, compute = self._run(request, portion, message.tensors)
        outputs = {name: array for name, array in produced.items() if name in portion.partition.plan.outputs}
        to = {name: self._servers(request, portion, name) for name in produced}
        leaving = {name: array for name, array in produced.items() if to[name]}
        gathered, cost = FLOWS[request.route.flow](request, portion.partition, leaving, to, self._courier)
        return Message("outputs", (cost + Tally(compute=compute)).fields(), outputs | gathered)

    def _run(self, request: Request, portion: Portion, tensors: Mapping[str, Any]) -> tuple[dict[str, Array], float]:
        """Run every stage that `tensors` complete, and those that these complete: the document's local calls.

        Returns what leaves this server (or the model), as arrays, and the seconds that stages were executing.
        """
        produced: dict[str, Array] = {}
        clock = _Stopwatch()

        def execute(stage: Stage, inputs: list[Any]) -> list[Any]:
            if request.remaining <= 0:
                raise DeadlineExceeded(f"request {request.id}: no time left for stage {stage.name!r}")
            with clock:
                return _execute(portion, stage, inputs)

        cascade = portion.inbox.cascade(
            request.id, request.deadline, tensors, execute, local_calls=request.route.local_calls
        )
        for _, outputs in cascade:
            with clock:
                leaving = (name for name in outputs if self._leaves(request, portion, name))
                produced |= {name: portion.to_array(outputs[name]) for name in leaving}
        return produced, clock.seconds

    def _leaves(self, request: Request, portion: Portion, tensor: str) -> bool:
        return tensor in portion.partition.plan.outputs or bool(self._servers(request, portion, tensor))

    def _servers(self, request: Request, portion: Portion, tensor: str) -> frozenset[int]:
        """The servers that `tensor` is sent to: not this one, as long as it calls its own stages directly."""
        consumers = portion.partition.consumers[tensor]
        return consumers - {portion.server} if request.route.local_calls else consumers

    def _portion(self, request: Request) -> Portion:
        key = (request.route.partition, request.route.engine)
        if key not in self._portions:
            raise NotAwaited(f"this server holds nothing of partition {key[0]!r} under engine {key[1]!r}")
        return self._portions[key]


class _Stopwatch:
    """Adds up the seconds spent inside of its `with` blocks."""

    seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.seconds += time.perf_counter() - self._start


def _execute(portion: Portion, stage: Stage, inputs: list[Any]) -> list[Any]:
    try:
        return portion.execute[stage.name](inputs)
    except WireError:
        raise
    except Exception as error:
        log.exception("stage %r failed", stage.name)
        text = f"stage {stage.name!r} on server {portion.server} failed with {type(error).__name__}"
        raise StageFailed(text) from error


def _check_arrival(portion: Portion, name: str, tensor: Array) -> None:
    if not portion.inbox.awaits(name):
        raise NotAwaited(f"tensor {name!r} came to server {portion.server}, where no stage awaits it")
    wire: Wire = portion.partition.plan.wires[name]
    fits = len(wire.shape) == tensor.ndim and all(
        expected in (None, extent) for expected, extent in zip(wire.shape, tensor.shape, strict=True)
    )
    if not fits or tensor.dtype.name != wire.dtype:
        came = f"{tensor.dtype.name}{list(tensor.shape)}"
        raise MalformedMessage(f"tensor {name!r}: expected {wire.dtype}{list(wire.shape)}, {came} came")
