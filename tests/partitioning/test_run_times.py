"""Fused runs of operations, timed."""

from __future__ import annotations

import numpy as np
import pytest

from partitioning import engines, run_times
from partitioning.errors import PartitionError
from partitioning.program import read
from tests.models import residual

PROGRAM = read(residual())
INPUTS = {"image": np.random.default_rng(0).random((2, 8, 8, 3), np.float32)}
COUNT = len(PROGRAM.graph.operations)


@pytest.mark.parametrize("engine", ["eager", "graph", "frozen"])
def test_every_run_is_timed_in_every_round(engine: str) -> None:
    runs = [(0, COUNT), (0, 3), (3, COUNT), (1, 4)]
    seconds = run_times.measure(PROGRAM, INPUTS, engine, runs, 5)
    assert seconds.shape == (4, 5)
    assert (seconds > 0).all()


@pytest.mark.parametrize("cut", range(1, COUNT))
def test_two_runs_in_a_row_give_what_the_whole_gives(cut: int) -> None:
    values = dict(INPUTS)
    for run in ((0, cut), (cut, COUNT)):
        stage = run_times.stage_of(PROGRAM.graph, run)
        outputs = engines.build("frozen", PROGRAM, stage)([values[name] for name in stage.inputs])
        values |= {name: engines.to_array(value) for name, value in zip(stage.outputs, outputs, strict=True)}
    whole = run_times.stage_of(PROGRAM.graph, (0, COUNT))
    (expected,) = engines.build("frozen", PROGRAM, whole)([INPUTS["image"]])
    assert np.allclose(values[whole.outputs[0]], expected, atol=1e-5)


def test_inputs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(PartitionError, match="cannot take these inputs"):
        run_times.measure(PROGRAM, {"image": np.zeros((1, 8, 8), np.float32)}, "eager", [(0, COUNT)], 5)
