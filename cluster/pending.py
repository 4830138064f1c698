"""The inputs of a request at one server, kept until each stage has all its inputs. Pure: no lock, no clock, no I/O.

A tensor that arrives again while a stage waits is ignored. A request is forgotten once all its stages have started:
servers send each tensor once, and a retry has a new id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from partitioning.plan import Stage
from transports.errors import MalformedMessage

Consumers = Mapping[str, Sequence[Stage]]
"""Tensor -> the stages of one server that take it."""
Execute = Callable[[Stage, list[Any]], Sequence[Any]]
"""A stage and its inputs in its order -> its outputs in its order."""


class Ready(NamedTuple):
    """A stage with the value of each of its inputs, in the stage's order."""

    stage: Stage
    inputs: list[Any]


def consumers_of(stages: Sequence[Stage]) -> dict[str, list[Stage]]:
    """The `Consumers` among `stages`."""
    found: dict[str, list[Stage]] = {}
    for stage in stages:
        for tensor in stage.inputs:
            found.setdefault(tensor, []).append(stage)
    return found


class PendingInputs:
    """Values by stage and tensor. Values are compared only if a tensor arrives twice, and not read otherwise."""

    def __init__(self, consumers: Consumers, stages: int) -> None:
        """`stages`: the number of the server's stages."""
        self._consumers = consumers
        self._stages = stages
        self._values: dict[str, dict[str, Any]] = {}
        self._started: set[str] = set()

    @property
    def complete(self) -> bool:
        """Whether every stage has started."""
        return len(self._started) == self._stages

    def put(self, tensors: Mapping[str, Any]) -> list[Ready]:
        """Store `tensors`, then remove and return every stage that has all its inputs.

        Raises `MalformedMessage`, and stores nothing, if a tensor arrives again with other bytes while a stage waits.
        """
        for stage_name, held in self._values.items():
            for tensor in held.keys() & tensors.keys():
                if not _same(held[tensor], tensors[tensor]):
                    text = f"tensor {tensor!r} came twice for stage {stage_name!r}, with other bytes"
                    raise MalformedMessage(text)
        ready = []
        for tensor, value in tensors.items():
            for stage in self._consumers[tensor]:
                if stage.name in self._started:
                    continue
                held = self._values.setdefault(stage.name, {})
                held.setdefault(tensor, value)
                if len(held) == len(stage.inputs):
                    self._started.add(stage.name)
                    del self._values[stage.name]
                    ready.append(Ready(stage, [held[name] for name in stage.inputs]))
        return ready


def cascade(
    put: Callable[[Mapping[str, Any]], list[Ready]],
    consumers: Consumers,
    tensors: Mapping[str, Any],
    execute: Execute,
    *,
    local_calls: bool,
) -> None:
    """Execute every stage that `tensors` complete.

    With `local_calls`, outputs also become inputs of the server's other stages, without a message. `put` is
    `PendingInputs.put` of the request.
    """
    ready = deque(put(tensors))
    while ready:
        stage, inputs = ready.popleft()
        outputs = execute(stage, inputs)
        if local_calls:
            own = {name: value for name, value in zip(stage.outputs, outputs, strict=True) if name in consumers}
            if own:
                ready.extend(put(own))


def _same(one: Any, other: Any) -> bool:
    """Whether two arrays have the same bits; a NaN equals itself."""
    first, second = np.asarray(one), np.asarray(other)
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
