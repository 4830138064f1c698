"""The plan that a command line describes: its options, and the model, costs and placement that result from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from partitioning import keras_settings
from partitioning.command_line import exit_status
from partitioning.errors import PartitionError
from partitioning.input_options import PHOTOGRAPH, PIXELS, Absent, Extent, Input, Scale
from partitioning.loading import load_tensorflow
from partitioning.options import Cut, Imports, Mode, Model, Parser, Placed, Servers, TrustModel, option
from partitioning.placement import PLACEMENTS, Placement
from partitioning.strategy_table import CUTS, SLACKS

if TYPE_CHECKING:
    from partitioning.models import LoadedModel
    from partitioning.plan import Plan
    from partitioning.program import Program

COSTS = ("none", "eager", "graph", "frozen")


@dataclass(frozen=True)
class PlanOptions:
    """The options that determine a plan."""

    model: Model = "MobileNetV3Large"
    imports: Imports = ()
    trust_model: TrustModel = "off"
    input: Input = str(PHOTOGRAPH)
    scale: Scale = PIXELS
    extent: Extent = ()
    absent: Absent = ()
    mode: Mode = "submodel"
    servers: Servers = 5
    cut: Cut = "equal"
    placement: Placed = "contiguous"
    costs: Annotated[
        str,
        option(
            "engine with which the cost of each operation is measured",
            valid=COSTS,
            shown=f"eager for {' and '.join(SLACKS)}, else none",
        ),
    ] = ""
    json: Annotated[str, option("write the plan to this file as well", metavar="FILE")] = ""


Options = TypeVar("Options", bound=PlanOptions)


@dataclass(frozen=True)
class Planned:
    """A plan, its program and its placement. `costs`: operation -> seconds, if they were measured."""

    program: Program
    plan: Plan
    placement: Placement
    costs: Mapping[str, float] | None


def main_of(parser: Parser, noun: type[Options], argv: Sequence[str] | None, work: Callable[[Options], None]) -> int:
    """Call `work` with the options in `argv`, as a `noun`; the exit status: 0 done, 2 refused, 130 interrupted."""

    def done() -> int:
        work(parser.read(noun, argv))
        return 0

    return exit_status(done, refused=(PartitionError, OSError), prefix=parser.prog.removeprefix("python -m "))


def planned(options: PlanOptions) -> Planned:
    """Load the model, cut it and place the stages; write the plan to `options.json`, if given.

    Raises `PartitionError` for a value that cannot be used, before the model is loaded if possible.
    """
    keras_settings.check()
    costs_of = options.costs or ("eager" if options.cut in SLACKS else "none")
    if options.cut in SLACKS and costs_of == "none":
        raise PartitionError(f"--cut {options.cut} needs costs: give --costs eager, graph or frozen")
    loaded = _loaded(options)
    program = loaded.read(options.absent)
    inputs = _inputs(options, loaded, program)
    servers = 1 if options.mode == "whole" else options.servers
    plan, costs = _cut(options, program, inputs, servers, costs_of)
    if options.cut not in CUTS:  # the named operations determine the number of groups
        servers = min(servers, len(plan.stages))
    if servers > len(plan.stages):
        raise PartitionError(f"--servers {servers}: this plan has {len(plan.stages)} stages; give at most as many")
    if options.json:
        try:
            Path(options.json).write_text(plan.to_json() + "\n", encoding="utf-8")
        except OSError as error:
            raise PartitionError(f"--json {options.json}: {error.strerror}") from error
    return Planned(program, plan, PLACEMENTS[options.placement](plan, servers), costs)


def _loaded(options: PlanOptions) -> LoadedModel:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    tensorflow = load_tensorflow()
    from partitioning import models

    tensorflow.get_logger().setLevel("ERROR")
    return models.load(options.model, imports=options.imports, trust=options.trust_model == "on")


def _inputs(options: PlanOptions, loaded: LoadedModel, program: Program) -> Mapping[str, Any]:
    """The first input that a run would send at batch 1, or at the model's fixed batch."""
    from partitioning.inputs.shapes import fixed_batch
    from partitioning.inputs.variants import variants

    assert program.client is not None
    return variants(options, program.client, fixed_batch(program.client.inputs) or 1, loaded.preprocess)[0]


def _cut(
    options: PlanOptions, program: Program, inputs: Mapping[str, Any], servers: int, engine: str
) -> tuple[Plan, Mapping[str, float] | None]:
    """The plan, and seconds of each operation under `engine` unless it is `none`."""
    from partitioning.strategies import make_plan

    if engine == "none":
        return make_plan(program.graph, options.mode, options.cut, servers), None
    from partitioning import costs

    assert program.client is not None
    prepared = program.client.prepare(inputs)
    measured = costs.measure(program, prepared, engine)
    if options.mode == "submodel" and options.cut in SLACKS:
        return costs.cut_by_cost(program, prepared, engine, options.cut, servers, measured)
    return make_plan(program.graph, options.mode, options.cut, servers), measured
