"""Operations that may answer differently when asked again are named; steady operations are not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers
from tensorflow.python.eager import context

from partitioning.engines import build
from partitioning.errors import PartitionError
from partitioning.plan import Stage
from partitioning.program import read
from partitioning.sampling import unsteady
from tests.kinds import KINDS
from tests.models import inputs_for

Call = Callable[[Any, Any], Any]


class Calling(layers.Layer):
    """A user's layer: `function(layer, inputs)`. It may hold another layer."""

    def __init__(self, function: Call, inside: layers.Layer | None = None, name: str = "mine") -> None:
        super().__init__(name=name)
        self.function, self.inside = function, inside
        self.seeds = keras.random.SeedGenerator(3)
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs: Any) -> Any:
        return self.function(self, inputs)


def _count(layer: Any, x: Any) -> Any:
    layer.calls.assign_add(1.0)
    return x + layer.calls


def _rarely(layer: Any, x: Any) -> Any:
    """A different answer in one of a hundred million calls."""
    drawn = keras.random.uniform((), seed=layer.seeds)
    return keras.ops.where(drawn < 1e-8, x + 1.0, x)


def _compiled(layer: Any, x: Any) -> Any:
    return tf.function(lambda value: value + tf.random.normal([4]))(x)


def _surely(layer: Any, x: Any) -> Any:
    """A choice that is nearly always the same."""
    return x + keras.random.categorical(x * 0 + [0.0, 0.0, 0.0, 50.0], 4, dtype="float32", seed=layer.seeds)


SAMPLING: Mapping[str, tuple[Call, layers.Layer | None]] = {
    "keras.random": (lambda layer, x: x + keras.random.normal(keras.ops.shape(x)), None),
    "a seed generator": (lambda layer, x: x + keras.random.normal((4,), seed=layer.seeds), None),
    "a choice": (lambda layer, x: x + keras.random.categorical(x, 4, dtype="float32", seed=layer.seeds), None),
    "a nearly sure choice": (_surely, None),
    "TensorFlow's own numbers": (lambda layer, x: x + tf.random.uniform([4]), None),
    "TensorFlow's own, compiled": (_compiled, None),
    "NumPy's numbers": (lambda layer, x: x + np.random.default_rng().normal(size=4), None),
    "dropout": (lambda layer, x: layer.inside(x, training=True), layers.Dropout(0.5, name="drop")),
    "noise": (lambda layer, x: layer.inside(x, training=True), layers.GaussianNoise(0.1, name="noise")),
    "noise below the tolerance": (
        lambda layer, x: layer.inside(x, training=True),
        layers.GaussianNoise(1e-5, name="noise"),
    ),
    "rarely": (_rarely, None),
    "rarely, by TensorFlow": (lambda layer, x: tf.where(tf.random.uniform([]) < 1e-8, x + 1, x), None),
    "a counter": (_count, None),
}


@pytest.mark.parametrize("seed", [None, 1], ids=["no global seed", "a global seed"])
@pytest.mark.parametrize("kind", SAMPLING)
def test_an_operation_that_may_answer_differently_is_named(
    kind: str, seed: int | None, request: pytest.FixtureRequest
) -> None:
    """The operation is also named if this process has a global seed, which nodes do not have."""
    request.addfinalizer(partial(context.set_global_seed, context.global_seed()))
    context.set_global_seed(seed)
    function, inside = SAMPLING[kind]
    x = keras.Input((4,), name="x")
    inner = keras.Input((4,), name="inner_x")
    nested = keras.Model(inner, Calling(function, inside)(layers.Dense(4, name="dense")(inner)), name="nested")
    program = read(keras.Model(x, layers.Dense(3, name="head")(nested(x))))
    named = f"nested/mine ({inside.name})" if inside else "nested/mine"
    assert unsteady(program, {"x": np.ones((2, 4), "float32")}) == [named]
    assert context.global_seed() == seed


STEADY: Mapping[str, Callable[[Any], Any]] = {
    "dropout at inference": layers.Dropout(0.5),
    "dropout of which the model's user says training": lambda x: layers.Dropout(0.5)(x, training=True),
    "noise at inference": layers.GaussianNoise(0.5),
    "dropout of a recurrent layer": layers.LSTM(3, dropout=0.5, recurrent_dropout=0.5),
    "a wrapped recurrent layer": layers.Bidirectional(layers.GRU(3, dropout=0.5)),
    "a fixed seed": Calling(lambda layer, x: x + keras.random.normal((4,), seed=7)),
    "augmentation": layers.RandomBrightness(0.5),
    "no number": Calling(lambda layer, x: x / 0.0 - x / 0.0),
}


@pytest.mark.parametrize("kind", STEADY)
def test_an_operation_that_draws_nothing_it_uses_is_not_named(kind: str) -> None:
    x = keras.Input((5, 4), name="x")
    program = read(keras.Model(x, STEADY[kind](x)))
    assert unsteady(program, {"x": np.ones((2, 5, 4), "float32")}) == []


@pytest.mark.parametrize("kind", ["dropout of a recurrent layer", "a wrapped recurrent layer"])
def test_what_draws_without_use_can_be_frozen(kind: str) -> None:
    x = keras.Input((5, 4), name="x")
    program = read(keras.Model(x, STEADY[kind](x)))
    (operation,) = program.graph.operations
    stage = Stage("all", operation.inputs, operation.outputs, (operation.name,))
    given = [np.random.default_rng(0).random((2, 5, 4), np.float32)]
    eager, frozen, again = (build(engine, program, stage)(given)[0] for engine in ("eager", "frozen", "eager"))
    np.testing.assert_allclose(frozen, eager, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(again, eager)


@pytest.mark.parametrize("name", KINDS)
def test_ordinary_models_are_steady(name: str) -> None:
    model = KINDS[name]()
    program = read(model)
    assert program.client is not None
    given = dict(zip((info.name for info in program.client.inputs), inputs_for(model), strict=True))
    assert unsteady(program, program.client.prepare(given)) == []


def _recurrent(cls: type[Any], **options: Any) -> layers.Layer:
    made: layers.Layer = cls(2, stateful=True, name="memory", **options)
    return made


STATEFUL: Mapping[str, Callable[[], layers.Layer]] = {
    "LSTM": lambda: _recurrent(layers.LSTM),
    "GRU": lambda: _recurrent(layers.GRU),
    "SimpleRNN": lambda: _recurrent(layers.SimpleRNN),
    "ConvLSTM1D": lambda: _recurrent(layers.ConvLSTM1D, kernel_size=1),
    "RNN of cells": lambda: layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)], stateful=True, name="memory"),
    "Bidirectional": lambda: layers.Bidirectional(_recurrent(layers.LSTM), name="both"),
}


@pytest.mark.parametrize("nested", [False, True], ids=["", "nested"])
@pytest.mark.parametrize("kind", STATEFUL)
def test_a_layer_with_a_state_is_refused_by_name(kind: str, nested: bool) -> None:
    shape = (1, 5, 4, 1) if kind == "ConvLSTM1D" else (1, 5, 4)
    x = keras.Input(batch_shape=shape, name="x")
    model = keras.Model(x, STATEFUL[kind]()(x))
    if nested:
        outer = keras.Input(batch_shape=shape, name="outer")
        model = keras.Model(outer, keras.Sequential([outer, model], name="inner")(outer))
    with pytest.raises(
        PartitionError, match=r"layer '(memory|both)' of operation .* keeps a state from request to request"
    ):
        read(model)
