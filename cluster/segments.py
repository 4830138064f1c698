"""The stages of one server, grouped into segments. The stages of a segment run in a row, with no message in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from partitioning.plan import Stage


@dataclass(frozen=True, eq=False)
class Segment:
    """Stages that can run once all `inputs` have arrived, in an order in which they can run."""

    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    """Tensors that other segments of the server take without a message."""

    @cached_property
    def needs(self) -> frozenset[str]:
        """`inputs` as a set."""
        return frozenset(self.inputs)

    @property
    def name(self) -> str:
        """The name of its first stage."""
        return self.stages[0].name


@dataclass(frozen=True, eq=False)
class Segments:
    """All segments of one server."""

    all: tuple[Segment, ...]
    taking: Mapping[str, Sequence[Segment]]
    """Tensor -> the segments that take it."""
    joining: bool
    """Whether a segment takes several tensors, so that one tensor may wait for another."""
    alone: Segment | None
    """The segment, if there is only one: a message with all of its inputs has nothing to wait for."""


def segments_of(stages: Sequence[Stage], local_calls: bool) -> Segments:
    """The segments of a server with `stages`, which are in an order in which they can run.

    With `local_calls`, the stages of a segment need the same tensors of other servers, directly or through other
    stages. Without, each stage is a segment, and every tensor arrives in a message.
    """
    found = _joined(stages) if local_calls else [Segment((stage,), stage.inputs, ()) for stage in stages]
    taking: dict[str, list[Segment]] = {}
    for segment in found:
        for tensor in segment.inputs:
            taking.setdefault(tensor, []).append(segment)
    joining = any(len(segment.inputs) > 1 for segment in found)
    return Segments(tuple(found), taking, joining, found[0] if len(found) == 1 else None)


def _joined(stages: Sequence[Stage]) -> list[Segment]:
    needed: dict[str, frozenset[str]] = {}
    groups: dict[frozenset[str], list[Stage]] = {}
    for stage in stages:
        needs = frozenset[str]().union(*(needed.get(name, {name}) for name in stage.inputs))
        needed.update(dict.fromkeys(stage.outputs, needs))
        groups.setdefault(needs, []).append(stage)
    return [_segment(group, stages) for group in groups.values()]


def _segment(group: Sequence[Stage], stages: Sequence[Stage]) -> Segment:
    made = {name for stage in group for name in stage.outputs}
    taken = dict.fromkeys(name for stage in group for name in stage.inputs if name not in made)
    own = {stage.name for stage in group}
    given = {name for stage in stages if stage.name not in own for name in stage.inputs}
    passed = [name for stage in group for name in stage.outputs if name in given]
    return Segment(tuple(group), tuple(taken), tuple(passed))
