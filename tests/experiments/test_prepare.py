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
from tests.own_kinds import TwoStreams
from transports.errors import UsageError


def _prepared(model: keras.Model, folder: Path, batch: int = 1, **settings: Any) -> Any:
    model.save(folder / "model.keras")
    cell = Cell(transport="none", servers=1, batch=batch)
    return prepare(Experiment(cells=(cell,), model=str(folder / "model.keras"), **settings))


@keras.saving.register_keras_serializable("tests")
class Sampling(layers.Layer):
    """Samples at inference."""

    def call(self, inputs: Any) -> Any:
        return inputs + keras.random.normal(keras.ops.shape(inputs))


def test_a_model_that_samples_is_refused_with_the_layers_name(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    with pytest.raises(UsageError, match=r"answers differently to the same input, .* \(cause: 'sampled'\)"):
        _prepared(keras.Model(x, Sampling(name="sampled")(layers.Dense(4, name="dense")(x))), tmp_path)


def test_an_output_that_is_none_is_refused(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    with pytest.raises(UsageError, match="output 'first:1' of the model is None; save the model without this output"):
        _prepared(keras.Model(x, TwoStreams(name="first")(x)), tmp_path)


def _model(shape: tuple[int | None, ...], *stack: layers.Layer, dtype: str = "float32") -> keras.Model:
    """A Sequential model whose input `x` has that shape, batch included."""
    return keras.Sequential([keras.Input(batch_shape=shape, dtype=dtype, name="x"), *stack])


FIXED = [((1, None, 6), layers.LSTM(3)), ((1, 64, 64, 3), layers.GlobalAveragePooling2D())]


@pytest.mark.parametrize(("shape", "layer"), FIXED, ids=["sequence", "image"])
def test_a_fixed_batch_is_the_only_valid_one(
    shape: tuple[int | None, ...], layer: layers.Layer, tmp_path: Path
) -> None:
    model = _model(shape, layer, layers.Dense(3))
    (made,) = {variant["x"].shape for variant in _prepared(model, tmp_path).inputs[1]}
    assert made == tuple(extent or 16 for extent in shape)
    with pytest.raises(UsageError, match="--batch 8: the model's input has the fixed batch 1; valid: 1"):
        _prepared(model, tmp_path, batch=8)


def test_an_image_model_of_whole_numbers_gets_them(tmp_path: Path) -> None:
    made = _prepared(_model((None, 8, 8, 1), layers.Flatten(), layers.Rescaling(1 / 255), dtype="uint8"), tmp_path)
    assert {variant["x"].dtype.name for variant in made.inputs[1]} == {"uint8"}


REFUSING = {
    "integers": _model((None, 4), layers.IntegerLookup(vocabulary=[90], num_oov_indices=0), dtype="int64"),
    "words": _model(
        (None,), layers.StringLookup(vocabulary=["no"], num_oov_indices=0), layers.Embedding(3, 2), dtype="string"
    ),
}


@pytest.mark.parametrize("kind", REFUSING)
def test_an_input_that_the_model_refuses_points_to_arrays(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"refuses this input: .*: --input FILE\.npz, with the arrays x$") as refused:
        _prepared(REFUSING[kind], tmp_path)
    assert str(refused.value).isprintable()


def test_arrays_take_the_place_of_seeded_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.array(["no"] * 3))
    made = _prepared(REFUSING["words"], tmp_path, input=str(tmp_path / "data.npz"), batch=2)
    assert made.experiment.input.endswith("data.npz")
    assert [len(variant["x"]) for variant in made.inputs[2]] == [2, 2, 2]


def test_inputs_with_no_finite_answer_cause_a_warning(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.full((2, 4), np.nan, np.float32))
    made = _prepared(_model((None, 4), layers.Dense(3)), tmp_path, input=str(tmp_path / "data.npy"))
    assert "answers all inputs alike" in made.warning


def test_answers_that_are_all_alike_cause_a_warning(tmp_path: Path) -> None:
    saturated = layers.Dense(2, "sigmoid", kernel_initializer=keras.initializers.RandomUniform(0.1, 1, seed=1))
    model = _model((None, 8, 8, 3), layers.Flatten(), saturated)
    assert "answers all inputs alike" in _prepared(model, tmp_path).warning
    assert _prepared(model, tmp_path, scale="-1..1").warning == ""


def test_no_more_variants_are_made_than_requests(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", np.random.default_rng(0).random((9, 4), np.float32))
    made = _prepared(_model((None, 4), layers.Dense(3)), tmp_path, input=str(tmp_path / "data.npy"), runs=5)
    assert len(made.inputs[1]) == len(made.expected[1]) == 5


def test_absent_inputs_are_absent_from_model_and_partition(tmp_path: Path) -> None:
    made = _prepared(KINDS["optional"](), tmp_path, absent=("mask", "shift"))
    assert [list(variant) for variant in made.inputs[1]] == [["x"]] * 4
    (partition,) = {*made.partitions.values()}
    assert partition.plan.inputs == ("x",)


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
