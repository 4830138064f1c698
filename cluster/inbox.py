"""Where a server keeps what has arrived of a request until a stage has all of its inputs."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from partitioning.plan import Stage
from transports.errors import MalformedMessage

Execute = Callable[[Stage, list[Any]], Sequence[Any]]
"""A stage and its inputs in its order -> its outputs in its order."""


@dataclass(frozen=True)
class Ready:
    """A stage with the value of each of its inputs, in the stage's order."""

    stage: Stage
    inputs: list[Any]


@dataclass
class _Pending:
    """What has arrived of one request: the values that stages still wait with, and the stages already given out."""

    deadline: float
    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)


class Inbox:
    """Values by (request, stage, tensor), of several clients at once: ids are unique, and one lock guards it all.

    Values are whatever the caller puts in; one is looked at only beside another that came for it. A request that is not
    complete at its deadline is there until the next `evict`, and an input that never comes holds no memory for good.

    What comes again counts once for as long as something of its request is awaited. Of a request that is complete
    nothing is remembered: senders send once, and a repeat has an id of its own.
    """

    def __init__(self, stages: Sequence[Stage], clock: Callable[[], float] = time.monotonic) -> None:
        self._stages = len(stages)
        self._awaiting: dict[str, list[Stage]] = {}
        for stage in stages:
            for tensor in stage.inputs:
                self._awaiting.setdefault(tensor, []).append(stage)
        self._pending: dict[str, _Pending] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Requests of which something is still awaited."""
        self.evict()
        return len(self._pending)

    def __contains__(self, request: str) -> bool:
        """Whether something of `request` is here and something is still awaited."""
        return request in self._pending

    def awaits(self, tensor: str) -> bool:
        """Whether some stage takes `tensor`."""
        return tensor in self._awaiting

    def evict(self) -> None:
        """Forget what came of requests whose deadline has passed."""
        with self._lock:
            now = self._clock()
            for request in [request for request, pending in self._pending.items() if pending.deadline < now]:
                del self._pending[request]

    def put(self, request: str, deadline: float, tensors: Mapping[str, Any]) -> list[Ready]:
        """Store `tensors` and take out every stage that is complete by them.

        A tensor that came before counts once. Raises `MalformedMessage` where it comes with another value while the
        first one waits; nothing is stored then.
        """
        with self._lock:
            pending = self._pending.setdefault(request, _Pending(deadline))
            self._check_repeats(pending, tensors)
            ready = [
                stage
                for tensor, value in tensors.items()
                for stage in self._awaiting[tensor]
                if self._store(pending, stage, tensor, value)
            ]
            taken = [Ready(stage, self._take(pending, stage)) for stage in ready]
            if len(pending.given) == self._stages:
                del self._pending[request]
            return taken

    def cascade(
        self, request: str, deadline: float, tensors: Mapping[str, Any], execute: Execute, *, local_calls: bool
    ) -> Iterator[tuple[Stage, dict[str, Any]]]:
        """Execute every stage that `tensors` complete, each with its outputs by name.

        With `local_calls` also those that these outputs complete in turn, without a message: the document's local call.
        """
        ready = self.put(request, deadline, tensors)
        while ready:
            item = ready.pop(0)
            outputs = dict(zip(item.stage.outputs, execute(item.stage, item.inputs), strict=True))
            yield item.stage, outputs
            here = {name: value for name, value in outputs.items() if local_calls and name in self._awaiting}
            ready += self.put(request, deadline, here) if here else []

    def _check_repeats(self, pending: _Pending, tensors: Mapping[str, Any]) -> None:
        for tensor, value in tensors.items():
            for stage in self._awaiting[tensor]:
                held = pending.values.get(stage.name, {})
                if tensor in held and not _same(held[tensor], value):
                    raise MalformedMessage(f"tensor {tensor!r} came twice for stage {stage.name!r}, with other bytes")

    def _store(self, pending: _Pending, stage: Stage, tensor: str, value: Any) -> bool:
        if stage.name in pending.given:
            return False
        values = pending.values.setdefault(stage.name, {})
        fresh = tensor not in values
        values.setdefault(tensor, value)
        return fresh and len(values) == len(stage.inputs)

    def _take(self, pending: _Pending, stage: Stage) -> list[Any]:
        pending.given.add(stage.name)
        values = pending.values.pop(stage.name)
        return [values[tensor] for tensor in stage.inputs]


def _same(one: Any, other: Any) -> bool:
    """Bit by bit, so that a NaN is like itself."""
    first, second = np.asarray(one), np.asarray(other)
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
