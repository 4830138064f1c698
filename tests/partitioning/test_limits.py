"""Seeded integer inputs stay below the limit of each kind of consumer, so that the model accepts them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
from keras import layers

from partitioning.inputs.variants import variants
from partitioning.planned import PlanOptions
from partitioning.program import read


def _words(name: str = "x", dtype: str = "int32") -> Any:
    return keras.Input((6,), dtype=dtype, name=name)


def _model(consume: Callable[[Any], Any], dtype: str = "int32") -> keras.Model:
    return keras.Model(x := _words(dtype=dtype), consume(x))


def _nested(x: Any) -> Any:
    return keras.Model(inner := _words("inner"), layers.Embedding(3, 4)(inner))(x)


class Own(layers.Layer):
    """Holds an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = layers.Embedding(3, 4)

    def call(self, x: Any) -> Any:
        return self.rows(x)


def _two_inputs() -> keras.Model:
    rows, x, y = layers.Embedding(3, 4), _words(), _words("y")
    return keras.Model([x, y], [rows(x), rows(layers.Concatenate()([x, y]))])


def _smallest(x: Any) -> Any:
    return layers.Concatenate()([layers.Embedding(rows, 4)(x) for rows in (7, 3, 5)])


def _reshaped(x: Any) -> Any:
    return layers.Embedding(3, 4)(keras.ops.cast(layers.Reshape((3, 2))(x)[:, :, 0], "int64"))


def _counted(x: Any) -> Any:
    return layers.Dense(2)(layers.CategoryEncoding(3, output_mode="count")(x))


def _looked_up(x: Any) -> Any:
    return layers.Embedding(3, 4)(layers.IntegerLookup(vocabulary=[1, 2])(x))


CONSUMERS: dict[str, tuple[Callable[[], keras.Model], dict[str, int]]] = {
    "embedding": (lambda: _model(layers.Embedding(3, 4)), {"x": 3}),
    "of one row": (lambda: _model(layers.Embedding(1, 4)), {"x": 1}),
    "of floats": (lambda: _model(layers.Embedding(3, 4), "float32"), {"x": 3}),
    "sequential": (lambda: keras.Sequential([_words(), layers.Embedding(3, 4)]), {"x": 3}),
    "several": (lambda: _model(_smallest), {"x": 3}),
    "shared": (_two_inputs, {"x": 3, "y": 3}),
    "nested": (lambda: _model(_nested), {"x": 3}),
    "nested in a layer": (lambda: _model(lambda x: Own()(x)), {"x": 3}),
    "time": (
        lambda: _model(lambda x: layers.TimeDistributed(layers.Embedding(3, 4))(layers.Reshape((2, 3))(x))),
        {"x": 3},
    ),
    "reshaped": (lambda: _model(_reshaped), {"x": 3}),
    "encoding": (lambda: _model(_counted), {"x": 3}),
    "lookup": (lambda: _model(_looked_up, "int64"), {}),
    "dense": (lambda: _model(layers.Dense(3), "float32"), {}),
}


@pytest.mark.parametrize("kind", CONSUMERS)
def test_seeded_values_are_below_what_consumers_take(kind: str) -> None:
    build, limits = CONSUMERS[kind]
    model = build()
    client = read(model).client
    assert client is not None
    assert client.limits == limits
    for inputs in variants(PlanOptions(), client, 3):
        client.answer(model, inputs)
        for name, limit in limits.items():
            assert {*inputs[name].flat} == {*range(limit)}
