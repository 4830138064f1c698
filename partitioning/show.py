"""`python -m partitioning.show`: what a plan would be, before anything runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NoReturn

from rich.console import Console
from rich.table import Table

from partitioning.cuts import Cut, cut_table, sent_bytes
from partitioning.errors import PartitionError, suggest
from partitioning.graph import Graph
from partitioning.placement import PLACEMENTS, Placement
from partitioning.plan import Plan
from partitioning.strategies import CUTS, MODES, make_plan

__all__ = ["main"]

COSTS = ("none", "eager", "graph", "frozen")

EPILOG = """\
examples:
  where five equal groups of operations are cut, and what crosses:
    python -m partitioning.show --model InceptionV3 --mode submodel --servers 5
  groups of equal cost, where few bytes cross:
    python -m partitioning.show --mode submodel --servers 5 --cut balanced --costs frozen
  every operation, its name and what it sends (names are what --cut takes):
    python -m partitioning.show --mode layer
  cuts of one's own, each name the first operation of a new group:
    python -m partitioning.show --mode submodel --cut expanded_conv_4_expand,expanded_conv_11_expand
  a model of one's own, and the plan as a file:
    python -m partitioning.show --model mine.keras --mode submodel --servers 3 --json plan.json

Bytes are those of one request at batch 1; a tensor that two stages await is sent twice. Neighbouring stages on one
server pass it on without sending.

exit status: 0 done; 2 a value cannot be used."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PartitionError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m partitioning.show",
        description="Show how a model would be split: stages, operations, and the tensors that cross each cut.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--model", default="MobileNetV3Large", help="a name in keras.applications, or a .keras file (%(default)s)")
    add("--mode", default="submodel", help=f"what a stage is: {', '.join(MODES)} (%(default)s)")
    add("--servers", default="5", help="groups of a submodel plan, and servers that hold the stages (%(default)s)")
    add("--cut", default="equal", help="equal, balanced, or NAME,NAME: operations that begin a group (%(default)s)")
    add("--placement", default="contiguous", help=f"{', '.join(PLACEMENTS)} (%(default)s)")
    add("--costs", default=None, help=f"engine to measure costs with: {', '.join(COSTS)} (none; eager if balanced)")
    add("--json", default=None, metavar="FILE", help="write the plan to this file as well")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Shows a plan; the exit status: 0 done, 2 refused."""
    try:
        _show(_parser().parse_args(argv))
    except PartitionError as error:
        print(f"partitioning.show: {error}", file=sys.stderr)
        return 2
    return 0


def _show(options: argparse.Namespace) -> None:
    servers, costs_of = _checked(options)
    graph, costs = _measured(options.model, costs_of)
    plan = make_plan(graph, options.mode, options.cut.replace(",", "+"), servers, costs)
    if servers > len(plan.stages) and options.mode != "whole":
        raise PartitionError(f"--servers {servers}: this plan has {len(plan.stages)} stages; give at most as many")
    placement = PLACEMENTS[options.placement](plan, servers if options.mode != "whole" else 1)
    if options.json:
        _write(Path(options.json), plan)
    console = Console()
    if not console.is_terminal:  # A pipe has no width, and names are there to be copied.
        console = Console(width=160)
    console.print(_table(f"{options.model}, {options.mode}", plan, placement, costs))
    print(f"{len(graph.operations)} operations, {len(plan.stages)} stages, {_size(sent_bytes(plan))} between stages")


def _checked(options: argparse.Namespace) -> tuple[int, str]:
    """Number of servers and engine of the costs. What a wrong value could be is said before a model is loaded."""
    choices = {"--mode": (options.mode, MODES), "--placement": (options.placement, tuple(PLACEMENTS))}
    costs_of = options.costs or ("eager" if options.cut == "balanced" else "none")
    for flag, (value, valid) in (choices | {"--costs": (costs_of, COSTS)}).items():
        if value not in valid:
            raise PartitionError(f"{flag} {value!r} is unknown{suggest(value, valid)}; valid: {', '.join(valid)}")
    if options.cut == "balanced" and costs_of == "none":
        raise PartitionError("--cut balanced needs costs: give --costs eager, graph or frozen")
    if not options.servers.isdecimal() or int(options.servers) < 1:
        raise PartitionError(f"--servers {options.servers!r}: give a whole number from 1")
    return _servers(options), costs_of


def _servers(options: argparse.Namespace) -> int:
    """Named cuts make their own number of groups, which need no more servers."""
    groups = len(options.cut.split(",")) + 1 if options.mode == "submodel" and options.cut not in CUTS else None
    return min(int(options.servers), groups or int(options.servers))


def _measured(model: str, costs_of: str) -> tuple[Graph, Mapping[str, float] | None]:
    """TensorFlow is loaded here and not before: a wrong flag is answered at once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import numpy as np

    from partitioning import costs, models, program

    loaded = program.read(models.load(model).model)
    if costs_of == "none":
        return loaded.graph, None
    infos = [loaded.graph.tensors[name] for name in loaded.graph.inputs]
    draw = np.random.default_rng(0)
    inputs = {info.name: draw.random([extent or 1 for extent in info.shape]).astype(info.dtype) for info in infos}
    return loaded.graph, costs.measure(loaded, inputs, costs_of)


def _write(path: Path, plan: Plan) -> None:
    try:
        path.write_text(plan.to_json() + "\n")
    except OSError as error:
        raise PartitionError(f"--json {path}: {error.strerror}") from error


def _table(title: str, plan: Plan, placement: Placement, costs: Mapping[str, float] | None) -> Table:
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
    """A line a tensor: its name, its size with its shape, and who awaits it."""
    names = [wire.name for wire in cut.wires]
    sizes = [
        f"{'x'.join('?' if e is None else str(e) for e in wire.shape)}  {_size(wire.nbytes)}" for wire in cut.wires
    ]
    to = [", ".join([*wire.consumers, *(["(output)"] if wire.name in outputs else [])]) for wire in cut.wires]
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
