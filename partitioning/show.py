"""`python -m partitioning.show`: the plan of a model, before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from partitioning.cuts import Cut, cut_table, sent_bytes
from partitioning.options import Parser
from partitioning.placement import Placement
from partitioning.plan import Plan
from partitioning.planned import PlanOptions, main_of, planned

if TYPE_CHECKING:
    from rich.table import Table

DESCRIPTION = "Show how a model would be split: stages, operations, and the tensors that cross each cut."
EPILOG = """\
examples:
  where five equal groups of operations are cut, and what crosses:
    %(prog)s --model InceptionV3 --mode submodel --servers 5
  groups of equal cost, where few bytes cross:
    %(prog)s --mode submodel --servers 5 --cut balanced --costs frozen
  every operation, its name and what it sends (names are what --cut takes):
    %(prog)s --mode layer
  your own cuts; each name is the first operation of a new group:
    %(prog)s --mode submodel --cut expanded_conv_4_expand,expanded_conv_11_expand
  your own model, and the plan as a file:
    %(prog)s --model mine.keras --mode submodel --servers 3 --json plan.json

Bytes are those of one request at batch 1. A tensor that two stages consume is counted twice. Neighbouring stages on
one server hand it over without a message.

exit status: 0 done; 2 a value cannot be used; 130 interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = "python -m partitioning.show") -> int:
    """Show a plan; the exit status: 0 done, 2 refused, 130 interrupted."""
    return main_of(Parser(prog, DESCRIPTION, EPILOG), PlanOptions, argv, _show)


def _show(options: PlanOptions) -> None:
    from rich.console import Console

    made = planned(options)
    console = Console()
    if not console.is_terminal:  # A pipe has no width, and names are there to be copied.
        console = Console(width=160)
    console.print(_table(f"{options.model}, {options.mode}", made.plan, made.placement, made.costs))
    operations, stages = len(made.program.graph.operations), len(made.plan.stages)
    print(f"{operations} operations, {stages} stages, {_size(sent_bytes(made.plan))} between stages")


def _table(title: str, plan: Plan, placement: Placement, costs: Mapping[str, float] | None) -> Table:
    from rich.table import Table

    table = Table(title=title)
    for heading in ("stage", "server", "operations", "gives", "size", "to"):
        justify: Literal["left", "right"] = "right" if heading in ("server", "operations", "size") else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    shares = _shares(plan, costs)
    if shares:
        table.add_column("cost", justify="right")
    for cut in cut_table(plan):
        row = _input_row(cut) if cut.stage is None else _row(cut, plan, placement)
        table.add_row(*row, *([shares.get(cut.stage or "", "")] if shares else []))
    return table


def _input_row(cut: Cut) -> list[str]:
    return ["(input)", "", "", *_given(cut, ())]


def _row(cut: Cut, plan: Plan, placement: Placement) -> list[str]:
    stage = plan.by_name[cut.stage or ""]
    label = stage.name if stage.name == stage.operations[0] else f"{stage.name}\nfrom {stage.operations[0]}"
    return [label, str(placement[stage.name]), str(len(stage.operations)), *_given(cut, plan.outputs)]


def _given(cut: Cut, outputs: Sequence[str]) -> list[str]:
    """Names, sizes with shapes, and consumers of the tensors, each a text with a line for each tensor."""
    names = [edge.name for edge in cut.edges]
    sizes = [
        f"{'x'.join('?' if e is None else str(e) for e in edge.shape)}  {_size(edge.nbytes)}" for edge in cut.edges
    ]
    to = [", ".join([*edge.consumers, *(["(output)"] if edge.name in outputs else [])]) for edge in cut.edges]
    return ["\n".join(names), "\n".join(sizes), "\n".join(to)]


def _shares(plan: Plan, costs: Mapping[str, float] | None) -> dict[str, str]:
    if costs is None:
        return {}
    seconds = {stage.name: sum(costs[name] for name in stage.operations) for stage in plan.stages}
    total = sum(seconds.values()) or 1.0
    return {name: f"{value * 1e3:.2f} ms {value / total:4.0%}" for name, value in seconds.items()}


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e6:.2f} MB" if nbytes >= 1e5 else f"{nbytes / 1e3:.1f} kB"


if __name__ == "__main__":
    sys.exit(main())
