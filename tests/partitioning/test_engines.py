"""What an executable keeps in memory."""

from __future__ import annotations

import gc
import weakref

import keras
import numpy as np
import pytest

from partitioning import engines
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.models import MODELS, inputs_for


def _built(model: keras.Model, engine: str) -> tuple[engines.Executable, weakref.ref[keras.Variable]]:
    """The whole model as a stage, and a weak reference to a variable of the model."""
    program = read(model)
    (stage,) = make_plan(program.graph, "whole").stages
    return engines.build(engine, program, stage), weakref.ref(model.trainable_variables[0])


@pytest.mark.parametrize(("engine", "kept"), [("eager", True), ("graph", True), ("frozen", False)])
def test_only_a_frozen_stage_releases_the_variables(engine: str, kept: bool) -> None:
    model = MODELS["sequential"]()
    inputs = inputs_for(model)
    expected = np.asarray(model(inputs[0]))
    run, variable = _built(model, engine)
    del model
    keras.backend.clear_session()
    gc.collect()
    assert (variable() is not None) == kept
    for _ in range(2):  # the first call also optimises
        np.testing.assert_allclose(np.asarray(run(inputs)[0]), expected, rtol=1e-5, atol=1e-6)
