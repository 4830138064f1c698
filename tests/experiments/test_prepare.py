"""Models that the preparation of an experiment accepts with seeded inputs, and those that it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from experiments.measure.prepare import prepare
from experiments.spec.experiment import Cell, Experiment
from tests.kinds import KINDS
from transports.errors import UsageError


def _prepared(model: keras.Model, folder: Path) -> Any:
    model.save(folder / "model.keras")
    return prepare(Experiment(cells=(Cell(transport="none", servers=1),), model=str(folder / "model.keras")))


@keras.saving.register_keras_serializable("tests")
class Sampling(layers.Layer):
    """Samples at inference."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_a_model_that_samples_is_refused_with_the_layers_name(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    with pytest.raises(UsageError, match=r"answers differently to the same input, .* \(cause: 'sampled'\)"):
        _prepared(keras.Model(x, Sampling(name="sampled")(layers.Dense(4, name="dense")(x))), tmp_path)


def test_seeded_integers_are_rows_of_the_embedding(tmp_path: Path) -> None:
    x = keras.Input((6,), dtype="int32", name="x")
    made = _prepared(keras.Model(x, layers.Embedding(2, 4, name="embed")(x)), tmp_path)
    values = np.concatenate([variant["x"] for variant in made.inputs[1]])
    assert set(values.flat) == {0, 1}


RETURNED = {
    "sentences": ["head"],
    "labels": ["scores"],
    "passed-on": ["head", "middle"],
    "dictionaries": ["difference", "head"],
}
"""Kind of model -> the outputs of the model that servers return: no strings, no inputs, none twice."""


@pytest.mark.parametrize("name", RETURNED)
def test_only_outputs_that_servers_return_are_expected(name: str, tmp_path: Path) -> None:
    made = _prepared(KINDS[name](), tmp_path)
    assert sorted(made.expected[1][0].outputs) == RETURNED[name]
    assert all(set(partition.plan.inputs) <= set(made.inputs[1][0]) for partition in made.partitions.values())
