"""What a plan sends from stage to stage, as a table. Imports no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from partitioning.plan import Edge, Plan


@dataclass(frozen=True)
class Cut:
    """All that one stage gives, or all that the model is given (`stage` is `None`).

    `nbytes` counts at batch 1, and a tensor as often as there are stages that await it: it is sent to each.
    """

    stage: str | None
    edges: tuple[Edge, ...]

    @property
    def consumers(self) -> tuple[str, ...]:
        """The stages that await something of it, in the plan's order of each tensor, each once."""
        return tuple(dict.fromkeys(name for edge in self.edges for name in edge.consumers))

    @property
    def nbytes(self) -> int:
        return sum(edge.nbytes * len(edge.consumers) for edge in self.edges)


def cut_table(plan: Plan) -> tuple[Cut, ...]:
    """The model's inputs, then what each stage gives, in the plan's order."""
    producers: Sequence[str | None] = [None, *(stage.name for stage in plan.stages)]
    return tuple(Cut(name, tuple(edge for edge in plan.edges.values() if edge.producer == name)) for name in producers)


def sent_bytes(plan: Plan) -> int:
    """Bytes that cross between stages in one request at batch 1; the model's inputs and outputs are not among them."""
    return sum(cut.nbytes for cut in cut_table(plan) if cut.stage is not None)
