"""The inputs of a request at one server, kept until each segment has all its inputs. Pure: no lock, no clock, no I/O.

A tensor that arrives again while a segment waits is ignored. A request is forgotten once all its segments have started:
servers send each tensor once, and a retry has a new id.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
import numpy as np

from cluster.segments import Segment, Segments
from transports.errors import MalformedMessage

Values = dict[str, Any]
"""Tensors by name, in the engine's own type."""
Execute = Callable[[Segment, Values], Mapping[str, Any]]
"""A function that executes a segment: (segment, its inputs) -> its outputs."""


class Ready(msgspec.Struct, frozen=True):
    """A segment with all of its inputs."""

    segment: Segment
    inputs: Values
    since: float = 0.0
    """The value of `now` in the call of `put` that brought the segment's first input."""


class PendingInputs:
    """The inputs that have arrived, by segment and tensor. Values are compared only if a tensor arrives twice, and not
    read otherwise."""

    def __init__(self, segments: Segments) -> None:
        self._segments = segments
        self._values: dict[str, Values] = {}
        self._started: set[str] = set()
        self._since: dict[str, float] = {}

    @property
    def complete(self) -> bool:
        """Whether every segment has started."""
        return len(self._started) == len(self._segments.all)

    def put(self, tensors: Mapping[str, Any], now: float = 0.0) -> list[Ready]:
        """Store `tensors`, then remove and return every segment that has all its inputs. `now`: see `Ready.since`.

        Raises `MalformedMessage`, and stores nothing, if a tensor arrives again with other bytes while a segment waits.
        """
        for name, held in self._values.items():
            for tensor in held.keys() & tensors.keys():
                if not _same(held[tensor], tensors[tensor]):
                    text = f"tensor {tensor!r} came twice for stage {name!r}, with other bytes"
                    raise MalformedMessage(text)
        ready = []
        for tensor, value in tensors.items():
            for segment in self._segments.taking[tensor]:
                if segment.name in self._started:
                    continue
                held = self._values.setdefault(segment.name, {})
                held.setdefault(tensor, value)
                if len(held) == len(segment.inputs):
                    self._started.add(segment.name)
                    since = self._since.pop(segment.name, now)
                    ready.append(Ready(segment, self._values.pop(segment.name), since))
                elif now:
                    self._since.setdefault(segment.name, now)
        return ready


def cascade(put: Callable[[Mapping[str, Any]], list[Ready]], tensors: Mapping[str, Any], execute: Execute) -> None:
    """Execute every segment that `tensors` complete, and every segment that the outputs of executed segments complete.

    `put` is `PendingInputs.put` of the request.
    """
    ready = deque(put(tensors))
    while ready:
        found = ready.popleft()
        if outputs := execute(found.segment, found.inputs):
            ready.extend(put(outputs))


def _same(one: Any, other: Any) -> bool:
    """Whether two arrays have the same bits; a NaN equals itself."""
    first, second = np.asarray(one), np.asarray(other)
    return (first.dtype, first.shape, first.tobytes()) == (second.dtype, second.shape, second.tobytes())
