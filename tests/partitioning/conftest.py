"""What the tests of partitioning share: running a plan's stages one after the other in this process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from partitioning import engines
from partitioning.plan import Plan
from partitioning.program import Program

Array = npt.NDArray[Any]


def executables(engine: str, program: Program, plan: Plan) -> dict[str, engines.Executable]:
    return {stage.name: engines.build(engine, program, stage) for stage in plan.stages}


def run_chained(
    plan: Plan,
    stages: Mapping[str, engines.Executable],
    inputs: Sequence[Array],
    tamper: Callable[[str, Sequence[Array]], Sequence[Array]] = lambda _, arrays: arrays,
) -> list[Array]:
    """The model's outputs, every tensor between stages a read-only array, as it would come off a wire.

    `tamper` is given each stage's name and inputs, and gives those that the stage really gets.
    """
    values = dict(zip(plan.inputs, inputs, strict=True))
    for stage in plan.stages:
        results = stages[stage.name](tamper(stage.name, [values[name] for name in stage.inputs]))
        values.update((name, _off_the_wire(value)) for name, value in zip(stage.outputs, results, strict=True))
    return [values[name] for name in plan.outputs]


def _off_the_wire(value: Any) -> Array:
    array = engines.to_array(value)
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
