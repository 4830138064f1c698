"""The tensors and bytes that cross cuts of a graph at a batch size. Imports no TensorFlow.

A cut is a position in the graph's order: the index of the first operation of a group. The client makes the model's
inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from partitioning.graph import Graph

CLIENT = -1
"""Stands for the client among the numbers of groups."""


@dataclass(frozen=True, eq=False)
class Traffic:
    """The tensors between groups of operations. Results are cached, since a search asks for them again and again."""

    graph: Graph
    batch: int

    @cached_property
    def sizes(self) -> Mapping[str, int]:
        """Tensor -> bytes."""
        return {name: info.nbytes * self.batch for name, info in self.graph.tensors.items()}

    @cached_property
    def answer(self) -> int:
        """Bytes of the model's outputs."""
        return sum(self.sizes[name] for name in self.graph.outputs)

    def crossing(self, position: int) -> tuple[str, ...]:
        """The tensors that operations before `position` (or the client) make and operations from it on take."""
        return tuple(name for name, places in self._taken.items() if self._maker(name) < position <= places[-1])

    def crossing_bytes(self, position: int) -> int:
        return sum(self.sizes[name] for name in self.crossing(position))

    def is_bridge(self, position: int) -> bool:
        """Whether only a tensor of the preceding operation crosses: between such positions the graph is a chain."""
        names = self.crossing(position)
        return len(names) == 1 and self._made.get(names[0]) == position - 1

    def messages(self, cuts: Sequence[int]) -> Mapping[tuple[int, int], int]:
        """(sending group or `CLIENT`, receiving group) -> bytes. A tensor is sent once to each group that takes it."""
        key = tuple(cuts)
        if key not in self._sent:
            self._sent[key] = self._messages(key)
        return self._sent[key]

    def taken(self, first: int, last: int) -> int:
        """Bytes of the tensors that the operations `first..last-1` take from earlier ones and from the client."""
        if (first, last) not in self._sums:
            self._sums[first, last] = sum(
                self.sizes[name]
                for name, places in self._taken.items()
                if self._maker(name) < first and any(first <= place < last for place in places)
            )
        return self._sums[first, last]

    def _messages(self, cuts: tuple[int, ...]) -> dict[tuple[int, int], int]:
        sent: dict[tuple[int, int], int] = {}
        for name, places in self._taken.items():
            source = _group(self._made[name], cuts) if name in self._made else CLIENT
            for target in sorted({_group(place, cuts) for place in places} - {source}):
                sent[source, target] = sent.get((source, target), 0) + self.sizes[name]
        return sent

    def _maker(self, name: str) -> int:
        """The position of the operation that makes a tensor; -1 for the client."""
        return self._made.get(name, CLIENT)

    @cached_property
    def _made(self) -> Mapping[str, int]:
        return {name: at for at, operation in enumerate(self.graph.operations) for name in operation.outputs}

    @cached_property
    def _taken(self) -> Mapping[str, tuple[int, ...]]:
        """Tensor -> the positions of the operations that take it, ascending."""
        taken: dict[str, list[int]] = {}
        for at, operation in enumerate(self.graph.operations):
            for name in operation.inputs:
                taken.setdefault(name, []).append(at)
        return {name: tuple(places) for name, places in taken.items()}

    @cached_property
    def _sent(self) -> dict[tuple[int, ...], dict[tuple[int, int], int]]:
        return {}

    @cached_property
    def _sums(self) -> dict[tuple[int, int], int]:
        return {}


def _group(place: int, cuts: Sequence[int]) -> int:
    """The group that holds the operation at `place`."""
    return sum(cut <= place for cut in cuts)
