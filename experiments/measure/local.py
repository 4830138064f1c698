"""The local model: the whole model as an executable of this process, called as its user would call it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from cluster.client import Answer
from cluster.request import RequestStats
from transports.base import Array

if TYPE_CHECKING:
    from partitioning.plan import Plan
    from partitioning.program import Program


class LocalModel:
    """The stage of a whole plan, executed by `engine`, without client, node or message in between."""

    def __init__(self, engine: str, program: Program, plan: Plan) -> None:
        from partitioning import engines  # TensorFlow

        (self._stage,) = plan.stages
        self._given = [name for name in plan.outputs if name in plan.inputs]
        self._run = engines.build(engine, program, self._stage)
        self._to_array = engines.to_array

    def infer(self, inputs: Mapping[str, Array]) -> Answer:
        """The outputs by tensor name, as arrays. All of the call counts as compute."""
        begun = time.perf_counter()
        values = self._run([inputs[name] for name in self._stage.inputs])
        outputs = {name: inputs[name] for name in self._given}
        outputs |= {name: self._to_array(value) for name, value in zip(self._stage.outputs, values, strict=True)}
        return Answer(outputs, RequestStats(compute=time.perf_counter() - begun))
