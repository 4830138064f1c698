"""Models of the kinds that users have: masks, text, nested inputs, own layers, odd names, low precision.

As in `tests.models`, two calls of a builder give the same model, and a wrong split changes its output visibly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
from keras import layers

from tests.models import _dense, _recurrent, _weights
from tests.own_kinds import OWN, own_layer


def _words(name: str = "words", length: int | None = 6) -> Any:
    return keras.Input((length,), dtype="int32", name=name)


def _embedding(name: str = "embed") -> layers.Embedding:
    return layers.Embedding(
        9, 4, mask_zero=True, name=name, embeddings_initializer=keras.initializers.RandomNormal(seed=1)
    )


def masked_recurrent() -> keras.Model:
    """A mask that crosses every cut up to the last recurrent layer."""
    embedded = layers.Dropout(0.3, name="drop")(_embedding()(words := _words()))
    hidden = layers.TimeDistributed(_dense(5, "each", "tanh"), name="time")(embedded)
    both = layers.Bidirectional(_recurrent(layers.GRU, 3, "gru", return_sequences=True), name="both")(hidden)
    last = _recurrent(layers.LSTM, 4, "lstm")(both)
    return keras.Model(words, _dense(3, "head", None)(last), name="masked_recurrent")


def masked_pooling() -> keras.Model:
    """`Masking`, a mask that a sum combines from two, a pooling that reads it, and a branch that drops it."""
    x = keras.Input((5, 3), name="x")
    zeroed = x * keras.ops.cast(keras.ops.greater(x[:, :, :1], -0.3), "float32")
    hidden = _dense(4, "hidden", "tanh")(layers.Masking(name="masking")(zeroed))
    joined = layers.Add(name="sum")([hidden, layers.Masking(0.5, name="other")(_dense(4, "second", "tanh")(zeroed))])
    pooled = layers.GlobalAveragePooling1D(name="pool")(joined)
    loose = layers.GlobalMaxPooling1D(name="max")(_dense(4, "third")(joined))
    return keras.Model(
        x, _dense(3, "head", None)(layers.Concatenate(name="join")([pooled, loose])), name="masked_pooling"
    )


def masked_attention() -> keras.Model:
    """Attention removes the mask of its arguments in place; a later layer reads another mask of the same tensors."""
    words = _words()
    embedded = _embedding()(words)
    attended = layers.MultiHeadAttention(2, 3, name="attention", **_weights("attention"))(embedded, embedded)
    joined = layers.Add(name="residual")([embedded, attended])
    keys = layers.Attention(name="dot")([joined, _embedding("keys")(words)])
    last = _recurrent(layers.LSTM, 4, "lstm")(layers.LayerNormalization(name="norm")(keys))
    side = _recurrent(layers.GRU, 3, "gru")(embedded)
    return keras.Model(words, [_dense(3, "head", None)(last), side], name="masked_attention")


def masked_nested() -> keras.Model:
    """One nested model makes a mask, another receives it, and a layer takes an explicit mask as an argument."""
    inner_words = _words("inner_words")
    encoder = keras.Model(inner_words, _dense(4, "wide", "tanh")(_embedding()(inner_words)), name="encoder")
    inner_x = keras.Input((6, 4), name="inner_x")
    reader = keras.Model(inner_x, _recurrent(layers.LSTM, 4, "lstm")(inner_x), name="reader")
    words = _words()
    encoded = encoder(words)
    explicit = _recurrent(layers.GRU, 4, "gru")(encoded, mask=keras.ops.greater(words, 2))
    joined = layers.Concatenate(name="join")([reader(encoded), explicit])
    return keras.Model(words, _dense(3, "head", None)(joined), name="masked_nested")


def masked_sequential() -> keras.Model:
    """Text of any length, as a `keras.Sequential`."""
    return keras.Sequential(
        [_words(length=None), _embedding(), _recurrent(layers.LSTM, 4, "lstm"), _dense(3, "head", None)], name="chain"
    )


def dictionaries() -> keras.Model:
    """Inputs and outputs in nested dictionaries and lists whose keys are not the names of the inputs."""
    a, b, c = (keras.Input((4,), name=name) for name in ("zeta", "beta", "alpha"))
    difference = layers.Subtract(name="difference")([a, _dense(4, "second", "tanh")(b)])
    joined = layers.Concatenate(name="join")([difference, _dense(3, "third", "tanh")(c)])
    outputs = {"y": [_dense(3, "head", None)(joined)], "x": {"inner": difference}}
    return keras.Model({"p": a, "q": [b, {"r": c}]}, outputs, name="dictionaries")


def nested_lists() -> keras.Model:
    """`[a, [b, c]]`, and a nested model that takes a dictionary."""
    a, b, c = (keras.Input((4,), name=name) for name in ("a", "b", "c"))
    left, right = keras.Input((4,), name="left"), keras.Input((4,), name="right")
    subtract = layers.Subtract(name="minus")([_dense(4, "wide", "tanh")(left), right])
    inner = keras.Model({"u": left, "v": right}, subtract, name="inner")
    joined = layers.Concatenate(name="join")([inner({"v": a, "u": b}), c])
    return keras.Model([a, [b, c]], _dense(3, "head", None)(joined), name="nested_lists")


def passed_on() -> keras.Model:
    """An output that is an input, an output that is listed twice, and an output that other layers take."""
    x, y = keras.Input((4,), name="x"), keras.Input((3,), name="y")
    middle = _dense(5, "middle", "tanh")(x)
    head = _dense(3, "head", None)(layers.Concatenate(name="join")([middle, y]))
    return keras.Model([x, y], [head, y, middle, head], name="passed_on")


def integers() -> keras.Model:
    """Lookups of numbers whose tables are no weights: a given vocabulary, an adapted one, and boundaries of bins."""
    x, y = keras.Input((4,), dtype="int64", name="x"), keras.Input((2,), name="y")
    adapted = layers.IntegerLookup(name="adapted")
    adapted.adapt(np.array([1, 2, 2, 4]))
    given = layers.IntegerLookup(vocabulary=[4, 3, 1], output_mode="multi_hot", name="given")
    bins = layers.Discretization(num_bins=3, name="bins")
    bins.adapt(np.linspace(-2, 2, 50))
    normal = layers.Normalization(name="normal")
    normal.adapt(np.random.default_rng(0).normal(5, 3, (50, 2)))
    rows = layers.Embedding(9, 3, name="rows", embeddings_initializer=keras.initializers.RandomNormal(seed=2))
    hashed = layers.Hashing(7, name="hashed")(x)
    parts = [layers.Flatten(name="flat")(rows(adapted(x))), given(x), keras.ops.cast(bins(y), "float32"), normal(y)]
    parts.append(layers.Flatten(name="more")(rows(hashed)))
    return keras.Model([x, y], _dense(3, "head", None)(layers.Concatenate(name="join")(parts)), name="integers")


def sentences() -> keras.Model:
    """Strings that the client turns into numbers, a mask computed from these numbers, and a numeric input."""
    text, x = keras.Input((), dtype="string", name="text"), keras.Input((3,), name="x")
    vectors = layers.TextVectorization(output_sequence_length=5, name="vectors")
    vectors.adapt(["the cat sat", "on the mat", "a dog"])
    read = _recurrent(layers.LSTM, 4, "lstm")(_embedding()(vectors(text)))
    joined = layers.Concatenate(name="join")([read, _dense(3, "side", "tanh")(x)])
    return keras.Model([text, x], _dense(3, "head", None)(joined), name="sentences")


def labels() -> keras.Model:
    """Categories as strings at both ends: the client looks them up."""
    kind, x = keras.Input((1,), dtype="string", name="kind"), keras.Input((3,), name="x")
    lookup = layers.StringLookup(vocabulary=["cat", "a dog sat"], output_mode="one_hot", name="lookup")
    joined = layers.Concatenate(name="join")([lookup(kind), x])
    scores = _dense(4, "scores", None)(_dense(5, "hidden", "tanh")(joined))
    name = layers.StringLookup(vocabulary=["red", "green", "blue"], invert=True, name="name")
    return keras.Model([kind, x], [name(keras.ops.argmax(scores, axis=-1)), scores], name="labels")


NAMES = ("conv 1", "_head", "größe", "deeplab.v3+", "日本", "a:b", "-dash", "50%", "tab\there")


def odd_names() -> keras.Model:
    """Names that Keras allows and that TensorFlow refuses as scopes."""
    x = y = keras.Input((4,), name="die Eingabe+")
    for name in NAMES:
        y = _dense(4, name, "tanh")(y)
    inner_x = keras.Input((4,), name="in side")
    inner = keras.Model(inner_x, _dense(4, "_deep one", "tanh")(inner_x), name="_inner model+")
    return keras.Model(x, _dense(3, "the end", None)(inner(y)), name="_odd names")


@keras.saving.register_keras_serializable("tests")
class Offset(layers.Layer):
    """Adds a tensor, if there is one."""

    def call(self, x: Any, shift: Any = None) -> Any:
        return x if shift is None else x + shift


def optional() -> keras.Model:
    """Inputs that may be absent: of a layer, of attention, and of a nested model."""
    x = keras.Input((5, 4), name="x")
    shift = keras.Input((5, 4), name="shift", optional=True)
    mask = keras.Input((5, 5), dtype="bool", name="mask", optional=True)
    inner_x, inner_shift = keras.Input((5, 4), name="inner_x"), keras.Input((5, 4), name="inner_shift", optional=True)
    inner = keras.Model(
        [inner_x, inner_shift], _dense(4, "wide", "tanh")(Offset(name="inside")(inner_x, inner_shift)), name="inner"
    )
    attention = layers.MultiHeadAttention(2, 3, name="attention", **_weights("attention"))
    attended = attention(inner([x, shift]), Offset(name="shifted")(x, shift=shift), attention_mask=mask)
    return keras.Model({"x": x, "more": [shift, mask]}, _dense(3, "head", None)(attended), name="optional")


def _quantised(mode: str) -> Callable[[], keras.Model]:
    def build() -> keras.Model:
        x = keras.Input((16,), name="x")
        y = _dense(8, "second", "tanh")(_dense(16, "first", "tanh")(x))
        model = keras.Model(x, _dense(4, "head", None)(y), name=f"quantised_{mode}")
        model.quantize(mode)
        return model

    return build


MASKED: Mapping[str, Callable[[], keras.Model]] = {
    "masked-recurrent": masked_recurrent,
    "masked-pooling": masked_pooling,
    "masked-attention": masked_attention,
    "masked-nested": masked_nested,
    "masked-sequential": masked_sequential,
    "own-layer": own_layer,
}
KINDS: Mapping[str, Callable[[], keras.Model]] = {
    **MASKED,
    "dictionaries": dictionaries,
    "nested-lists": nested_lists,
    "passed-on": passed_on,
    "integers": integers,
    "sentences": sentences,
    "labels": labels,
    "odd-names": odd_names,
    "optional": optional,
    **OWN,
    **{mode: _quantised(mode) for mode in ("int8", "int4", "float8")},
}
ABSENT: Mapping[str, tuple[str, ...]] = {"optional": ("shift", "mask")}
"""Kind of model -> the optional inputs that are absent in the tests."""
