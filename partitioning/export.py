"""`python -m partitioning.export`: writes the stages of a plan as SavedModels, for TensorFlow Serving and its like."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from partitioning.errors import PartitionError
from partitioning.options import Parser, option
from partitioning.placement import Placement
from partitioning.plan import Plan, Stage
from partitioning.planned import PlanOptions, main_of, planned
from partitioning.served import CONFIG, Served

if TYPE_CHECKING:
    from partitioning.program import Program

SIGNATURE = "serving_default"

DESCRIPTION = "Write every stage of a plan as a SavedModel, with the configuration files of the model servers."
EPILOG = f"""\
examples:
  five submodels, a SavedModel each, and a server for all of them:
    %(prog)s --model MobileNetV3Large --mode submodel --servers 5 --to served
    tensorflow_model_server --port=8500 --rest_api_port=8501 --model_config_file=served/{CONFIG}
  the first of them alone:
    tensorflow_model_server --port=8500 --model_name=stage-0 --model_base_path=$PWD/served/stage-0

The inputs and outputs of a signature have the names of the plan's tensors, with illegal characters escaped; plan.json
has both names. server-<i>.config lists the stages that --placement gives to server i.

exit status: 0 done; 2 a value cannot be used; 130 interrupted."""


def export(program: Program, plan: Plan, folder: Path, placement: Placement | None = None, family: str = "") -> Served:
    """Write every stage of `plan` as a SavedModel below `folder`, which is made if necessary; returns their names.

    The signature `serving_default` of a stage has the plan's shapes and dtypes; open extents stay open. Without a
    placement, one server holds every stage. `family` is a prefix of the models' names (`Served.of`). Raises
    `PartitionError` for a folder that is not empty or cannot be written, and for a stage that cannot be written.
    """
    check_empty(folder)
    served = Served.of(plan, family)
    try:
        for stage in plan.stages:
            _save(program, stage, served, folder)
        served.write(folder, placement or dict.fromkeys(served.models, 0))
    except OSError as error:
        raise PartitionError(f"{folder} cannot be written: {error.strerror or error}") from error
    return served


def check_empty(folder: Path) -> None:
    """Raise `PartitionError` unless `folder` is empty or does not exist."""
    if folder.exists() and not folder.is_dir():
        raise PartitionError(f"{folder} is no folder; name one that is empty or does not exist")
    if folder.is_dir() and any(folder.iterdir()):
        raise PartitionError(f"{folder} is not empty; name a folder that is empty or does not exist")


def _save(program: Program, stage: Stage, served: Served, folder: Path) -> None:
    import tensorflow as tf

    from partitioning.keras_internals import legal_variables, resources

    holder = tf.Module()
    function = _traced(program, stage, served)
    # TensorFlow saves variables and tables of a function only if the saved object refers to them.
    holder.variables_held = list(function.graph.variables)
    holder.tables_held = [table for name in stage.operations for table in resources(program.steps[name].operation)]
    try:
        with legal_variables(holder.variables_held):
            tf.saved_model.save(holder, str(served.model_folder(folder, stage)), signatures={SIGNATURE: function})
    except (AssertionError, ValueError, OSError, tf.errors.OpError) as error:
        raise PartitionError(f"stage {stage.name!r} cannot be written as a SavedModel: {error}") from error


def _traced(program: Program, stage: Stage, served: Served) -> Any:
    """The stage as a function of named tensors, which signatures require."""
    import tensorflow as tf

    run = program.function(stage)
    taken = [served.keys[name] for name in stage.inputs]
    given = [served.keys[name] for name in stage.outputs]

    def call(**tensors: Any) -> dict[str, Any]:
        # A signature's outputs must be distinct tensors and no inputs, so each gets an identity operation.
        return {key: tf.identity(value) for key, value in zip(given, run([tensors[key] for key in taken]), strict=True)}

    infos = [program.graph.tensors[name] for name in stage.inputs]
    specs = {key: tf.TensorSpec(info.shape, info.dtype, key) for key, info in zip(taken, infos, strict=True)}
    with program.tracing(stage):
        return tf.function(call, autograph=False).get_concrete_function(**specs)


@dataclass(frozen=True, kw_only=True)
class ExportOptions(PlanOptions):
    """A plan, and the folder for its stages."""

    to: Annotated[str, option("folder to write to: empty, or to be made", metavar="FOLDER", min_length=1)]


def main(argv: Sequence[str] | None = None, prog: str = "python -m partitioning.export") -> int:
    """Export a plan; the exit status: 0 done, 2 refused, 130 interrupted."""
    return main_of(Parser(prog, DESCRIPTION, EPILOG), ExportOptions, argv, _export)


def _export(options: ExportOptions) -> None:
    folder = Path(options.to)
    check_empty(folder)
    made = planned(options)
    export(made.program, made.plan, folder, made.placement)
    print(f"{len(made.plan.stages)} stages in {folder}; {folder / CONFIG} configures one server for all of them")


if __name__ == "__main__":
    sys.exit(main())
