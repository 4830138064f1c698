"""Finds operations that may answer differently when they are called again: they sample, or keep a state.

Each operation is called twice with the same tensors. An operation that samples rarely may give the same answer twice,
so the random numbers that TensorFlow draws meanwhile are watched, too.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import keras
import ml_dtypes
import numpy as np
import tensorflow as tf
from tensorflow.python.eager import context
from tensorflow.python.framework import op_callbacks

from partitioning.graph import Operation
from partitioning.plan import Stage
from partitioning.program import Program

RANDOM = ("Random", "Multinomial", "TruncatedNormal")
"""Parts of the names of TensorFlow's operations that draw random numbers."""
UNUSED = "keras.src.layers.rnn."
"""Modules of layers that draw dropout masks at inference, too, and do not apply them then."""
ROUNDING = 16
"""Rounding errors by which two equal answers may differ, since threads may add numbers in another order."""


def unsteady(program: Program, inputs: Mapping[str, Any]) -> list[str]:
    """The operations whose results differ between two calls with equal tensors, or depend on new random numbers.

    `inputs` are arrays by name. The name of an operation is followed by the names of the layers inside it that draw, if
    they differ: `"block (noise)"`. Numbers with a fixed seed are no sampling, since they are the same in every call.
    """
    with _unseeded():
        return list(_unsteady(program, inputs))


def _unsteady(program: Program, inputs: Mapping[str, Any]) -> Iterator[str]:
    values = {name: tf.convert_to_tensor(array) for name, array in inputs.items()}
    left = {name: place for place, op in enumerate(program.graph.operations) for name in op.inputs}
    for place, operation in enumerate(program.graph.operations):
        stage = Stage(operation.name, operation.inputs, operation.outputs, (operation.name,))
        ask = partial(program.function(stage), [values[name] for name in operation.inputs])
        with _draws() as first:
            results = ask()
        with _draws() as second:
            again = ask()
        drawing = [] if first == second else list(dict.fromkeys(layer for layer, _ in second))
        if drawing or not all(map(_same, results, again)):
            yield _named(operation, drawing)
        values.update(zip(operation.outputs, results, strict=True))
        for name in {*operation.inputs, *operation.outputs}:
            if left.get(name, place) <= place:
                del values[name]


@contextmanager
def _unseeded() -> Iterator[None]:
    """Run the block without this process's global seed of TensorFlow, if it has one, since nodes have none.

    With a seed, a function that is traced anew in each call draws the same numbers each time.
    """
    seed = context.global_seed()
    context.set_global_seed(None)
    try:
        yield
    finally:
        context.set_global_seed(seed)


def _named(operation: Operation, drawing: Sequence[str]) -> str:
    inside = [name for name in drawing if name and name != operation.name.rpartition("/")[2].partition("#")[0]]
    return f"{operation.name} ({', '.join(inside)})" if inside else operation.name


@contextmanager
def _draws() -> Iterator[list[tuple[str, bytes]]]:
    """The random numbers that are drawn in the block, each with the innermost layer that draws them.

    Seeds are recorded, too: drawn choices can be equal although the random numbers behind them are new.
    """
    drawn: list[tuple[str, bytes]] = []

    def watch(kind: Any, inputs: Any, attributes: Any, outputs: Any, op_name: Any = None, graph: Any = None) -> None:
        text = kind.decode() if isinstance(kind, bytes) else kind
        if graph is None and any(word in text for word in RANDOM):
            layer = _calling_layer()
            if not type(layer).__module__.startswith(UNUSED):
                seeds = [tensor for tensor in inputs if tensor.dtype.is_integer]
                drawn.append((layer.name if layer else "", b"".join(t.numpy().tobytes() for t in (*seeds, *outputs))))

    op_callbacks.add_op_callback(watch)
    try:
        yield drawn
    finally:
        op_callbacks.remove_op_callback(watch)


def _calling_layer() -> keras.Layer | None:
    """The innermost layer on the stack."""
    frame: FrameType | None = sys._getframe(1)
    while frame:
        if isinstance(owner := frame.f_locals.get("self"), keras.Layer):
            return owner
        frame = frame.f_back
    return None


def _same(one: Any, other: Any) -> bool:
    """Whether two tensors are equal but for the order in which threads add numbers; None equals None."""
    if one is None or other is None:
        return one is other
    first, second = np.asarray(one), np.asarray(other)
    if first.shape != second.shape:
        return False
    if one.dtype.is_integer or one.dtype.is_bool or one.dtype == tf.string:
        return bool((first == second).all())
    wide = np.complex128 if one.dtype.is_complex else np.float64
    first, second = first.astype(wide), second.astype(wide)
    size = float(np.abs(first[np.isfinite(first)]).max(initial=0.0))
    least = float(ml_dtypes.finfo(one.dtype.as_numpy_dtype).eps)  # type: ignore[no-untyped-call]
    return bool(np.allclose(first, second, rtol=0, atol=ROUNDING * least * size, equal_nan=True))
