"""Small models, one for each shape that a graph can have. A wrong split of any of them changes its output visibly.

Every weight has its own seed and every layer a name, so that two calls of a builder, in one process or in two, give the
same model. Weights keep activations of order one: outputs that are all alike would hide a broken split.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers


def _weights(name: str) -> dict[str, Any]:
    """Initialisers seeded by the layer's name: kernels that keep the variance, and biases that no symmetry cancels."""
    seed = sum(ord(letter) * (place + 1) for place, letter in enumerate(name))
    return {
        "kernel_initializer": keras.initializers.VarianceScaling(2.0, "fan_in", "truncated_normal", seed=seed),
        "bias_initializer": keras.initializers.RandomNormal(stddev=0.3, seed=seed + 1),
    }


def _dense(units: int, name: str, activation: str | None = "relu") -> layers.Dense:
    return layers.Dense(units, activation=activation, name=name, **_weights(name))


def _conv(filters: int, name: str, activation: str | None = "relu", strides: int = 1) -> layers.Conv2D:
    return layers.Conv2D(filters, 3, strides, "same", activation=activation, name=name, **_weights(name))


def _recurrent(cls: type[Any], units: int, name: str, **options: Any) -> Any:
    orthogonal = keras.initializers.Orthogonal(seed=5)
    return cls(units, name=name, recurrent_initializer=orthogonal, **_weights(name), **options)


def sequential() -> keras.Model:
    """A chain, as `keras.Sequential`."""
    return keras.Sequential(
        [
            keras.Input((6,), name="x"),
            _dense(12, "first"),
            _dense(8, "second"),
            _dense(5, "third", "tanh"),
            _dense(4, "last", None),
        ],
        name="chain",
    )


def residual() -> keras.Model:
    """Additions around convolutions, with an operation that is no layer (`* 0.5 + 1.0`)."""
    x = keras.Input((8, 8, 3), name="image")
    stem = _conv(4, "stem")(x)
    block = layers.Add(name="first_sum")([stem, _conv(4, "body_1")(stem)])
    block = layers.Add(name="second_sum")([block, _conv(4, "body_2")(block) * 0.5 + 1.0])
    pooled = layers.GlobalAveragePooling2D(name="pool")(block)
    return keras.Model(x, _dense(4, "head", None)(pooled), name="residual")


def fork_join() -> keras.Model:
    """Three branches whose joins (a difference, a concatenation) give another result if their inputs are exchanged."""
    x = keras.Input((6,), name="x")
    stem = _dense(8, "stem", "tanh")(x)
    left, right, third = (_dense(8, name, "tanh")(stem) for name in ("left", "right", "third"))
    difference = layers.Subtract(name="difference")([left, right])
    joined = layers.Concatenate(name="join")([difference, third, left])
    return keras.Model(x, _dense(4, "head", None)(joined), name="fork_join")


def shared_layer() -> keras.Model:
    """One layer called three times, in a row and on another input: three operations, one set of weights."""
    x = keras.Input((6,), name="x")
    shared = _dense(6, "shared", "tanh")
    once = shared(x)
    twice = shared(_dense(6, "between", "tanh")(once))
    other = shared(layers.Activation("tanh", name="bend")(x))
    joined = layers.Subtract(name="difference")([twice, other])
    return keras.Model(x, _dense(4, "head", None)(joined), name="shared_layer")


def multi_input() -> keras.Model:
    """Two inputs of different shapes; only a late layer takes the second one."""
    image = keras.Input((8, 8, 3), name="image")
    facts = keras.Input((5,), name="facts")
    seen = layers.GlobalAveragePooling2D(name="pool")(_conv(6, "look", strides=2)(image))
    hidden = _dense(6, "hidden", "tanh")(seen)
    joined = layers.Concatenate(name="join")([hidden, _dense(3, "read", "tanh")(facts)])
    return keras.Model([image, facts], _dense(4, "head", None)(joined), name="multi_input")


def multi_output() -> keras.Model:
    """Two outputs, one of which later layers take as well."""
    x = keras.Input((6,), name="x")
    first = _dense(8, "first", "tanh")(x)
    middle = _dense(5, "middle", "tanh")(first)
    late = _dense(7, "late", "tanh")(middle)
    return keras.Model(x, [_dense(4, "end", None)(late), middle], name="multi_output")


def nested() -> keras.Model:
    """An inner functional model that is called twice, and a `Sequential` inside the inner model."""
    inner_input = keras.Input((6,), name="inner_x")
    innermost = keras.Sequential(
        [keras.Input((6,), name="deep_x"), _dense(6, "deep_1", "tanh"), _dense(6, "deep_2", "tanh")], name="deep"
    )
    inner = keras.Model(
        inner_input,
        layers.Add(name="skip")([_dense(6, "wide", "tanh")(innermost(inner_input)), inner_input]),
        name="inner",
    )
    x = keras.Input((6,), name="x")
    again = inner(_dense(6, "between", "tanh")(inner(x)))
    return keras.Model(x, _dense(4, "head", None)(again), name="nested")


def several_outputs() -> keras.Model:
    """A layer and an operation with several output tensors, one of them unused."""
    x = keras.Input((5, 6), name="sequence")
    cell = layers.LSTM(
        4,
        return_sequences=True,
        return_state=True,
        name="lstm",
        recurrent_initializer=keras.initializers.Orthogonal(seed=5),
        **_weights("lstm"),
    )
    steps, hidden, state = cell(x)
    first, _, third = keras.ops.split(steps, [2, 3], axis=1)
    joined = layers.Concatenate(name="join")([layers.Flatten(name="flat")(third), state, hidden])
    early = layers.Flatten(name="early")(first)
    return keras.Model(x, [_dense(4, "head", None)(joined), early], name="several_outputs")


def long_skip() -> keras.Model:
    """Tensors that skip over several cuts, one of them the model's own input."""
    x = keras.Input((6,), name="x")
    stem = _dense(6, "stem", "tanh")(x)
    deep = stem
    for place in range(5):
        deep = _dense(6, f"deep_{place}", "tanh")(deep)
    joined = layers.Subtract(name="difference")([layers.Multiply(name="product")([deep, stem]), x])
    return keras.Model(x, _dense(4, "head", None)(joined), name="long_skip")


def structured() -> keras.Model:
    """Inputs and outputs in dictionaries, a tensor as a keyword argument, an unused input, an output listed twice."""
    query = keras.Input((5, 6), name="query")
    value = keras.Input((7, 6), name="value")
    unused = keras.Input((2,), name="unused")
    attention = layers.MultiHeadAttention(2, 3, name="attention", **_weights("attention"))(query, value=value)
    pooled = layers.GlobalAveragePooling1D(name="pool")(layers.Subtract(name="difference")([query, attention]))
    head = _dense(4, "head", None)(pooled)
    inputs = {"value": value, "query": query, "unused": unused}
    return keras.Model(inputs, {"score": head, "again": head, "middle": attention}, name="structured")


def fan_out() -> keras.Model:
    """An input that every stage takes, and a tensor that the first stage makes for the last."""
    x = keras.Input((6,), name="x")
    stem = _dense(6, "stem", "tanh")(x)
    deep = stem
    for place in range(3):
        deep = layers.Subtract(name=f"less_{place}")([_dense(6, f"deep_{place}", "tanh")(deep), x])
    joined = layers.Multiply(name="product")([deep, stem])
    return keras.Model(x, _dense(4, "head", None)(joined), name="fan_out")


def empty() -> keras.Model:
    """Tensors without elements: between stages, as an output, and joined to others."""
    x = keras.Input((6,), name="x")
    stem = _dense(8, "stem", "tanh")(x)
    flat = stem[:, 8:]
    rows = layers.Reshape((3, 0, 2), name="rows")(flat)
    deep = _dense(5, "deep", "tanh")(stem)
    joined = layers.Concatenate(name="join")([deep, flat, layers.Flatten(name="columns")(rows)])
    return keras.Model(x, [_dense(4, "head", None)(joined), rows], name="empty")


def multi_channel() -> keras.Model:
    """An image of five channels, and one of a single channel."""
    many, gray = keras.Input((8, 8, 5), name="many"), keras.Input((8, 8, 1), name="gray")
    joined = layers.Subtract(name="difference")([_conv(4, "wide")(many), _conv(4, "thin")(gray)])
    return keras.Model([many, gray], _dense(4, "head", None)(layers.Flatten(name="flat")(joined)), name="multi_channel")


def fixed_batch() -> keras.Model:
    """A batch of exactly two, whose items are mixed."""
    x = keras.Input(batch_shape=(2, 6), name="x")
    mixed = keras.ops.reshape(_dense(6, "first", "tanh")(x), (6, 2))
    joined = layers.Subtract(name="difference")([mixed, keras.ops.flip(mixed, axis=0)])
    return keras.Model(x, _dense(4, "head", None)(keras.ops.reshape(joined, (2, 6))), name="fixed_batch")


SHAPES: Mapping[str, Callable[[], keras.Model]] = {
    "sequential": sequential,
    "residual": residual,
    "fork-join": fork_join,
    "shared-layer": shared_layer,
    "multi-input": multi_input,
    "multi-output": multi_output,
    "fan-out": fan_out,
    "empty": empty,
}
"""The shapes that every transport and flow is tested with."""

MODELS: Mapping[str, Callable[[], keras.Model]] = SHAPES | {
    "nested": nested,
    "several-outputs": several_outputs,
    "long-skip": long_skip,
    "structured": structured,
}
"""All shapes, which every strategy and engine is tested with."""


def inputs_for(model: keras.Model, batch: int = 2, seed: int = 0) -> list[np.ndarray]:
    """One array for each of `model.inputs`, in that order: standard normal numbers, integers below 5, or sentences."""
    draw = np.random.default_rng(seed)

    def array(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        if dtype == "string":
            return draw.choice(np.array(["the cat", "a dog sat", "cat", "on a mat"], object), shape)
        whole = np.issubdtype(np.dtype(dtype) if dtype != "bfloat16" else np.float32, np.integer)
        return draw.integers(0, 5, shape).astype(dtype) if whole else draw.standard_normal(shape).astype(dtype)

    tensors = keras.tree.flatten(model.inputs)
    return [array((batch, *(extent or 5 for extent in x.shape[1:])), x.dtype) for x in tensors]


def flat_outputs(model: keras.Model, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """The outputs of the whole model for `inputs` (in the order of `model.inputs`), in the order of `model.outputs`.

    An output that the model lists twice is returned once. Outputs that are inputs, or strings, are left out.
    """
    functional = model._functional if isinstance(model, keras.Sequential) else model
    by_input = {id(x): array for x, array in zip(model.inputs, inputs, strict=True)}
    packed = keras.tree.map_structure(lambda x: by_input[id(x)], functional._inputs_struct)
    answers = keras.tree.flatten(model(packed, training=False))
    distinct = {id(x): np.asarray(answer) for x, answer in zip(model.outputs, answers, strict=True)}
    return [answer for key, answer in distinct.items() if key not in by_input and answer.dtype != object]
