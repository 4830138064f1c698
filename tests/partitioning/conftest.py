"""Helpers that run the stages of a plan one after the other in this process."""

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
    """The model's outputs. Every tensor between stages is a read-only array, as if it had been received.

    `tamper`: (a stage's name, its inputs) -> the inputs that the stage gets instead.
    """
    values = dict(zip(plan.inputs, inputs, strict=True))
    for stage in plan.stages:
        results = stages[stage.name](tamper(stage.name, [values[name] for name in stage.inputs]))
        values.update((name, _received(value)) for name, value in zip(stage.outputs, results, strict=True))
    return [values[name] for name in plan.outputs]


def _received(value: Any) -> Array:
    array = engines.to_array(value)
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
