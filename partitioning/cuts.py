"""The tensors that a plan sends from stage to stage, as a table. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partitioning.plan import Edge, Plan


@dataclass(frozen=True)
class Cut:
    """All outputs of one stage, or all inputs of the model (`stage` is `None`)."""

    stage: str | None
    edges: tuple[Edge, ...]

    @property
    def consumers(self) -> tuple[str, ...]:
        """The stages that take one of the tensors, each once."""
        return tuple(dict.fromkeys(name for edge in self.edges for name in edge.consumers))

    @property
    def nbytes(self) -> int:
        """Bytes at batch 1; a tensor counts once for each stage that takes it, since it is sent to each."""
        return sum(edge.nbytes * len(edge.consumers) for edge in self.edges)


def cut_table(plan: Plan) -> tuple[Cut, ...]:
    """The model's inputs, then the outputs of each stage, in the plan's order."""
    producers: Sequence[str | None] = [None, *(stage.name for stage in plan.stages)]
    return tuple(Cut(name, tuple(edge for edge in plan.edges.values() if edge.producer == name)) for name in producers)


def sent_bytes(plan: Plan) -> int:
    """Bytes that cross between stages in one request at batch 1, without the model's inputs and outputs."""
    return sum(cut.nbytes for cut in cut_table(plan) if cut.stage is not None)
