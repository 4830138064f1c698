"""Models with users' own classes, which do things that Keras allows but its built-in classes do not do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.models import _conv, _dense, _recurrent


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """A user's layer, which holds another layer and makes a mask."""

    def __init__(self, factor: float = 2.0, **options: Any) -> None:
        super().__init__(**options)
        self.factor = factor
        self.inside = _dense(4, "inside", "tanh")

    def build(self, shape: Any) -> None:
        self.inside.build(shape)
        self.offset = self.add_weight(shape=(shape[-1],), initializer="ones", name="offset")

    def call(self, inputs: Any) -> Any:
        return self.inside(inputs) * self.factor + self.offset

    def compute_mask(self, inputs: Any, previous_mask: Any = None) -> Any:
        return keras.ops.any(keras.ops.greater(inputs, 0.0), axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


def own_layer() -> keras.Model:
    """A registered layer, whose mask a recurrent layer reads."""
    x = keras.Input((5, 4), name="x")
    scaled = Scaled(3.0, name="scaled")(x)
    return keras.Model(x, _dense(3, "head", None)(_recurrent(layers.GRU, 4, "gru")(scaled)), name="own_layer")


class Weighted(layers.Layer):
    """A layer of `Backbone` whose `factor` Keras cannot save; the class is registered nowhere."""

    def __init__(self, factor: Any, name: str) -> None:
        super().__init__(name=name)
        self.factor = factor

    def call(self, inputs: Any) -> Any:
        return inputs * self.factor(inputs)


@keras.saving.register_keras_serializable("tests")
class Shifted(layers.Layer):
    """A layer of `Backbone`, whose configuration lacks `shift` and has a number that is no plain `float`."""

    def __init__(self, shift: float = 0.0, scale: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.shift, self.scale = shift, scale

    def call(self, inputs: Any) -> Any:
        return self.scale * inputs + self.shift

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "scale": np.float64(self.scale)}


@keras.saving.register_keras_serializable("tests")
class Backbone(keras.Model):
    """A functional model that makes its layers itself, as models of KerasHub do: Keras saves only `units`."""

    def __init__(self, units: int, **options: Any) -> None:
        x = keras.Input((6,), name="backbone_x")
        weighted = Weighted(keras.ops.tanh, "weighted")(_dense(units, "wide", "tanh")(x))
        shifted = Shifted(3.0, name="shifted")(weighted)
        super().__init__(x, _dense(4, "narrow", "tanh")(Shifted(scale=2.0, name="scaled")(shifted)), **options)
        self.units = units

    def get_config(self) -> dict[str, Any]:
        return {"units": self.units, "name": self.name}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Backbone:
        return cls(**config)


def own_model() -> keras.Model:
    """A model that contains a user's model, whose layers cannot be made from their own configurations."""
    x = keras.Input((6,), name="x")
    return keras.Model(x, _dense(3, "head", None)(Backbone(5, name="backbone")(x)), name="own_model")


@keras.saving.register_keras_serializable("tests")
class Largest(layers.Layer):
    """Declares a wrong shape for its result, and no dtype."""

    def call(self, inputs: Any) -> Any:
        return keras.ops.argsort(inputs, axis=-1)[:, :2]

    def compute_output_shape(self, shape: Any) -> Any:
        return shape


def misrecorded() -> keras.Model:
    """Tensors whose shape, dtype or both differ from what Keras has recorded for them."""
    x, image = keras.Input((6,), name="x"), keras.Input((8, 8, 3), name="image")
    parts = [keras.ops.one_hot(Largest(name="largest")(x), 6), keras.ops.real(keras.ops.cast(x, "complex64"))[:, None]]
    cropped = layers.RandomCrop(5, 5, name="crop")(image)
    seen = layers.GlobalMaxPooling2D(name="pool")(_conv(6, "look")(cropped))
    joined = layers.Concatenate(axis=1, name="join")([*parts, seen[:, None]])
    return keras.Model([x, image], _dense(3, "head", None)(joined), name="misrecorded")


@keras.saving.register_keras_serializable("tests")
class Resized(layers.Layer):
    """Takes no `training`, and calls a layer whose default is `training=True`: Keras passes this on to the next one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.resizing, self.dropout = layers.Resizing(4, 4), layers.Dropout(0.5)

    def call(self, inputs: Any) -> Any:
        return self.dropout(self.resizing(inputs))


def untrained() -> keras.Model:
    """A layer that would drop values at random unless the model tells it that it is not in training."""
    image = keras.Input((8, 8, 3), name="image")
    seen = layers.Flatten(name="flat")(_conv(4, "look")(Resized(name="resized")(image)))
    return keras.Model(image, _dense(3, "head", None)(seen), name="untrained")


@keras.saving.register_keras_serializable("tests")
class TwoStreams(layers.Layer):
    """Declares two results; without a query the second result is None, as in XLNet."""

    def build(self, content_shape: Any, query_shape: Any = None) -> None:
        self.offset = self.add_weight(shape=(content_shape[-1],), initializer="ones", name="offset")

    def call(self, content: Any, query: Any = None) -> Any:
        return keras.ops.tanh(content + self.offset), None if query is None else query + content

    def compute_output_shape(self, content_shape: Any, query_shape: Any = None) -> Any:
        return [content_shape, content_shape]


def nothing() -> keras.Model:
    """A layer takes a result of another layer that is None, though Keras has recorded a tensor for it."""
    x = keras.Input((4,), name="x")
    content, query = TwoStreams(name="first")(x)
    content, _ = TwoStreams(name="second")(content, query)
    return keras.Model(x, _dense(3, "head", None)(content), name="nothing")


OWN: Mapping[str, Callable[[], keras.Model]] = {
    "own-model": own_model,
    "misrecorded": misrecorded,
    "nothing": nothing,
    "untrained": untrained,
}
