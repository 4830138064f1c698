"""What the command lines of this room share: the flags that describe a plan, and the plan that they describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from partitioning.errors import PartitionError, suggest
from partitioning.placement import ALIASES, PLACEMENTS, Placement
from partitioning.plan import Plan
from partitioning.silence import silenced
from partitioning.strategies import CUTS, MODES, SLACKS, make_plan

if TYPE_CHECKING:
    from partitioning.program import Program

COSTS = ("none", "eager", "graph", "frozen")


@dataclass(frozen=True)
class Planned:
    """A plan with all that it was made of. `costs`: operation -> seconds, where they were measured."""

    program: Program
    plan: Plan
    placement: Placement
    costs: Mapping[str, float] | None


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise PartitionError(message)


def parser(prog: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """A parser with the flags of a plan; one that cannot be parsed is a `PartitionError`."""
    made = _Parser(
        prog=prog,
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = made.add_argument
    add("--model", default="MobileNetV3Large", help="a name in keras.applications, or a .keras file (%(default)s)")
    add("--mode", default="submodel", help=f"what a stage is: {', '.join(MODES)} (%(default)s)")
    add("--servers", default="5", help="groups of a submodel plan, and servers that hold the stages (%(default)s)")
    add("--cut", default="equal", help=f"{', '.join(CUTS)}, or NAME,NAME: operations that begin a group (%(default)s)")
    add("--placement", default="contiguous", help=f"{', '.join(PLACEMENTS)} (%(default)s)")
    add(
        "--costs",
        default=None,
        help=f"engine to measure costs with: {', '.join(COSTS)} (none; eager for {' and '.join(SLACKS)})",
    )
    add("--json", default=None, metavar="FILE", help="write the plan to this file as well")
    return made


def planned(options: argparse.Namespace) -> Planned:
    """Load the model, cut it and place it as `options` says, and write the plan where it asks for that.

    Raises `PartitionError` for whatever cannot be used; a wrong value is told before a model is loaded.
    """
    costs_of = _checked(options)
    program = _program(options.model)
    costs = _measured(program, costs_of) if costs_of != "none" else None
    servers = _servers(options)
    plan = make_plan(program.graph, options.mode, options.cut.replace(",", "+"), servers, costs)
    if servers > len(plan.stages) and options.mode != "whole":
        raise PartitionError(f"--servers {servers}: this plan has {len(plan.stages)} stages; give at most as many")
    if options.json:
        _write(Path(options.json), plan)
    return Planned(program, plan, PLACEMENTS[options.placement](plan, servers if options.mode != "whole" else 1), costs)


def _checked(options: argparse.Namespace) -> str:
    """The engine of the costs."""
    options.placement = ALIASES.get(options.placement, options.placement)
    choices = {"--mode": (options.mode, MODES), "--placement": (options.placement, tuple(PLACEMENTS))}
    costs_of = options.costs or ("eager" if options.cut in SLACKS else "none")
    for flag, (value, valid) in (choices | {"--costs": (costs_of, COSTS)}).items():
        if value not in valid:
            raise PartitionError(f"{flag} {value!r} is unknown{suggest(value, valid)}; valid: {', '.join(valid)}")
    if options.cut in SLACKS and costs_of == "none":
        raise PartitionError(f"--cut {options.cut} needs costs: give --costs eager, graph or frozen")
    if not options.servers.isdecimal() or int(options.servers) < 1:
        raise PartitionError(f"--servers {options.servers!r}: give a whole number from 1")
    return costs_of


def _servers(options: argparse.Namespace) -> int:
    """Named cuts make their own number of groups, which need no more servers."""
    groups = len(options.cut.split(",")) + 1 if options.mode == "submodel" and options.cut not in CUTS else None
    return min(int(options.servers), groups or int(options.servers))


def _program(model: str) -> Program:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced():
        import tensorflow as tf
    from partitioning import models, program

    tf.get_logger().setLevel("ERROR")
    return program.read(models.load(model).model)


def _measured(program: Program, costs_of: str) -> Mapping[str, float]:
    """Costs on seeded numbers: what an operation costs does not depend on what it is given."""
    import numpy as np

    from partitioning import costs

    infos = [program.graph.tensors[name] for name in program.graph.inputs]
    draw = np.random.default_rng(0)
    inputs = {info.name: draw.random([extent or 1 for extent in info.shape]).astype(info.dtype) for info in infos}
    return costs.measure(program, inputs, costs_of)


def _write(path: Path, plan: Plan) -> None:
    try:
        path.write_text(plan.to_json() + "\n", encoding="utf-8")
    except OSError as error:
        raise PartitionError(f"--json {path}: {error.strerror}") from error
