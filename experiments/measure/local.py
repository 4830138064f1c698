"""Executables called directly in this process, as a user would call them: the local model, and stages in a row."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.client import Answer
from cluster.request import RequestStats
from transports.base import Array

if TYPE_CHECKING:
    from partitioning.plan import Plan
    from partitioning.program import Program


class LocalModel:
    """The stages of a plan, executed by `engine` one after the other, without client, node or message in between."""

    def __init__(self, engine: str, program: Program, plan: Plan) -> None:
        from partitioning import engines  # TensorFlow

        self._plan = plan
        self._stages = [(stage, engines.build(engine, program, stage)) for stage in plan.stages]
        self._to_array = engines.to_array

    def infer(self, inputs: Mapping[str, Array]) -> Answer:
        """The outputs by tensor name, as arrays. The whole call counts as compute time."""
        begun = time.perf_counter()
        values = self._values(inputs)
        outputs = {name: self._to_array(values[name]) for name in self._plan.outputs}
        return Answer(outputs, RequestStats(compute=time.perf_counter() - begun))

    def tensors(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Every tensor between stages, and the model's inputs and outputs, as arrays."""
        return {name: self._to_array(value) for name, value in self._values(inputs).items()}

    def _values(self, inputs: Mapping[str, Array]) -> dict[str, Any]:
        values: dict[str, Any] = dict(inputs)
        for stage, run in self._stages:
            outputs = run([values[name] for name in stage.inputs])
            values.update(zip(stage.outputs, outputs, strict=True))
        return values
