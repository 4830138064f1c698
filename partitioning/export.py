"""`python -m partitioning.export`: every stage of a plan as a SavedModel, for TensorFlow Serving and the like."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from partitioning import show
from partitioning.errors import PartitionError
from partitioning.placement import PLACEMENTS, Placement
from partitioning.plan import Plan, Stage
from partitioning.served import CONFIG, Served
from partitioning.silence import silenced
from partitioning.strategies import make_plan

if TYPE_CHECKING:
    from partitioning.program import Program

__all__ = ["export", "main"]

SIGNATURE = "serving_default"

EPILOG = f"""\
examples:
  five submodels, a SavedModel each, and a server for all of them:
    python -m partitioning.export --model MobileNetV3Large --mode submodel --servers 5 --to served
    tensorflow_model_server --port=8500 --rest_api_port=8501 --model_config_file=served/{CONFIG}
  the first of them alone:
    tensorflow_model_server --port=8500 --model_name=stage-0 --model_base_path=$PWD/served/stage-0

A signature's inputs and outputs are called as the plan's tensors are, wherever TensorFlow allows it; plan.json says
what each is called, and server-<i>.config names to the i-th of --servers servers the stages that --placement gives it.

exit status: 0 done; 2 a value cannot be used."""


def export(program: Program, plan: Plan, folder: Path, placement: Placement | None = None) -> Served:
    """Write every stage of `plan` below `folder`, which is made where it is not there; what is called how.

    The signature `serving_default` of a stage takes and gives tensors of the plan's shapes and dtypes; an extent that
    the plan leaves open stays open. Without a placement, one server holds every stage. Raises `PartitionError` for a
    folder that is not empty and for a stage that cannot be written.
    """
    check_empty(folder)
    served = Served.of(plan)
    for stage in plan.stages:
        _save(program, stage, served, folder)
    served.write(folder, placement or dict.fromkeys(served.models, 0))
    return served


def check_empty(folder: Path) -> None:
    """Raises `PartitionError` unless `folder` is empty or can still be made."""
    if folder.exists() and not folder.is_dir():
        raise PartitionError(f"{folder} is no folder; name one that is empty, or not there yet")
    if folder.is_dir() and any(folder.iterdir()):
        raise PartitionError(f"{folder} is not empty; name a folder that is, or is not there yet")


def _save(program: Program, stage: Stage, served: Served, folder: Path) -> None:
    import tensorflow as tf

    holder = tf.Module()
    try:
        function = _traced(program, stage, served)
        # What the function refers to is saved only where the saved object leads to it.
        holder.held = list(function.graph.variables)
        tf.saved_model.save(holder, str(served.model_folder(folder, stage)), signatures={SIGNATURE: function})
    except (AssertionError, ValueError, OSError, tf.errors.OpError) as error:
        raise PartitionError(f"stage {stage.name!r} cannot be written as a SavedModel: {error}") from error


def _traced(program: Program, stage: Stage, served: Served) -> Any:
    """The stage as a function of named tensors, as signatures are."""
    import tensorflow as tf

    run = program.function(stage)
    taken = [served.keys[name] for name in stage.inputs]
    given = [served.keys[name] for name in stage.outputs]

    def call(**tensors: Any) -> dict[str, Any]:
        # An identity of its own for each: an output may be an input, and one tensor two outputs.
        return {key: tf.identity(value) for key, value in zip(given, run([tensors[key] for key in taken]), strict=True)}

    infos = [program.graph.tensors[name] for name in stage.inputs]
    specs = {key: tf.TensorSpec(info.shape, info.dtype, key) for key, info in zip(taken, infos, strict=True)}
    return tf.function(call, autograph=False).get_concrete_function(**specs)


def main(argv: Sequence[str] | None = None) -> int:
    """Exports a plan; the exit status: 0 done, 2 refused."""
    try:
        _export(_parser().parse_args(argv))
    except PartitionError as error:
        print(f"partitioning.export: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = show._Parser(
        prog="python -m partitioning.export",
        description="Write every stage of a plan as a SavedModel, and what a model server has to know of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[show._parser()],
        add_help=False,  # the parent's is there
        allow_abbrev=False,
    )
    parser.add_argument("--to", required=True, metavar="FOLDER", type=Path, help="where to write: an empty folder")
    return parser


def _export(options: argparse.Namespace) -> None:
    servers, costs_of = show._checked(options)
    check_empty(options.to)
    costs = show._measured(options.model, costs_of)[1] if costs_of != "none" else None
    program = _program(options.model)
    plan = make_plan(program.graph, options.mode, options.cut.replace(",", "+"), servers, costs)
    servers = _fitting(servers, plan)
    if options.json:
        show._write(Path(options.json), plan)
    export(program, plan, options.to, PLACEMENTS[options.placement](plan, servers))
    print(f"{len(plan.stages)} stages in {options.to}; one server for all of them takes {options.to / CONFIG}")


def _fitting(servers: int, plan: Plan) -> int:
    if plan.mode == "whole":
        return 1
    if servers > len(plan.stages):
        raise PartitionError(f"--servers {servers}: this plan has {len(plan.stages)} stages; give at most as many")
    return servers


def _program(model: str) -> Program:
    """TensorFlow is loaded here and not before: a wrong flag is answered at once."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with silenced():
        import tensorflow as tf

        from partitioning import models, program
    tf.get_logger().setLevel("ERROR")
    return program.read(models.load(model).model)


if __name__ == "__main__":
    sys.exit(main())
