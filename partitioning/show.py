"""`python -m partitioning.show`: prints the plan of a model without running it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from partitioning import command_line
from partitioning.options import Parser
from partitioning.placement import Placement
from partitioning.plan import Cut, Plan, cut_table, sent_bytes
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
  every operation by name, with the tensors that it sends; --cut takes these names:
    %(prog)s --mode layer
  your own cuts; each name is the first operation of a new group:
    %(prog)s --mode submodel --cut expanded_conv_4_expand,expanded_conv_11_expand
  your own model, and the plan as a file:
    %(prog)s --model mine.keras --mode submodel --servers 3 --json plan.json

Bytes are those of one request at batch 1. A tensor that two stages consume counts twice. Between neighbouring stages on
one server it needs no message.

exit status: 0 done; 2 a value cannot be used; 130 interrupted."""


def main(argv: Sequence[str] | None = None, prog: str = "python -m partitioning.show") -> int:
    """Show a plan; the exit status: 0 done, 2 refused, 130 interrupted."""
    return main_of(Parser(prog, DESCRIPTION, EPILOG), PlanOptions, argv, _show)


def _show(options: PlanOptions) -> None:
    made = planned(options)
    console = command_line.console()
    if not console.is_terminal:  # A pipe has no width, and names should stay on one line.
        console = command_line.console(width=160)
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
        stage_cells = ["(input)", "", ""]
        if cut.stage is not None:
            name, operations = cut.stage, plan.by_name[cut.stage].operations
            label = name if name == operations[0] else f"{name}\nfrom {operations[0]}"
            stage_cells = [label, str(placement[name]), str(len(operations))]
        table.add_row(*stage_cells, *_given(cut, plan.outputs), *([shares.get(cut.stage or "", "")] if shares else []))
    return table


def _given(cut: Cut, outputs: Sequence[str]) -> list[str]:
    """The cells with the names, shapes and sizes, and consumers of the tensors, one tensor on a line."""
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
