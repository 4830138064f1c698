"""Scores behind outputs that are decisions: the index of the largest value, or whether a value exceeds another.

Rounding may reverse a decision between candidates that are almost equal. The scores tell such a near tie from a wrong
answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from partitioning.graph import Operation
from partitioning.plan import Stage
from transports.base import Array

if TYPE_CHECKING:
    from partitioning.program import Program

DISCRETE = "biu"
"""Kinds of NumPy dtypes (`dtype.kind`) whose values are compared as decisions."""

ALIGNED = frozenset({"Cast", "ExpandDims", "Flatten", "Identity", "Reshape", "Squeeze"})
"""Operations that keep the number and the order of elements."""


def _along(values: Array, axis: int | None) -> Array:
    return values.reshape(1, -1) if axis is None else np.moveaxis(values, axis, -1)


def _pair(no: Array, yes: Array) -> Array:
    return np.stack(np.broadcast_arrays(no, yes), axis=-1)


SCORES: Mapping[str, Callable[..., Array]] = {
    "Argmax": lambda operation, x: _along(x, operation.axis),
    "Argmin": lambda operation, x: _along(-x, operation.axis),
    **dict.fromkeys(("Greater", "GreaterEqual"), lambda operation, a, b: _pair(b, a)),
    **dict.fromkeys(("Less", "LessEqual"), lambda operation, a, b: _pair(a, b)),
}
"""Kind of operation -> the scores of its candidates, along the last axis; its result is the index of the largest."""


def scores_of(program: Program, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Output of the program -> scores of its elements' candidates, float64 of shape (elements, candidates).

    Only for integer and boolean outputs that an operation in `SCORES` decides from floats, and that are at most
    reshaped or cast afterwards.
    """
    graph = program.graph
    makers = {name: operation for operation in graph.operations for name in operation.outputs}
    deciding = {name: operation for name in graph.outputs if (operation := _decides(program, makers, name))}
    taken = tuple(dict.fromkeys(name for operation in deciding.values() for name in operation.inputs))
    if not taken:
        return {}
    everything = Stage("scores", graph.inputs, taken, tuple(operation.name for operation in graph.operations))
    values = program.function(everything)([_tensor(inputs[name]) for name in graph.inputs])
    by_name = dict(zip(taken, values, strict=True))
    return {name: _scores(program, operation, by_name) for name, operation in deciding.items()}


def near_ties(found: Array, right: Array, scores: Array, limit: float) -> int:
    """How many elements of `found` differ from `right`, but have a score that is smaller than the largest score by at
    most the share `limit` of that score's size."""
    places = np.flatnonzero(found != right)
    chosen = found.reshape(-1)[places].astype(np.int64)
    possible = (chosen >= 0) & (chosen < scores.shape[1])
    rows, chosen = scores[places[possible]], chosen[possible]
    size = float(np.abs(scores[np.isfinite(scores)]).max(initial=0.0))
    return int((rows.max(axis=1) - rows[np.arange(len(rows)), chosen] <= limit * size).sum())


def _decides(program: Program, makers: Mapping[str, Operation], name: str) -> Operation | None:
    """The operation that decides the output `name`; None if it is unknown."""
    tensors = program.graph.tensors
    operation = makers[name]
    while operation.kind in ALIGNED and operation.inputs[0] in makers:
        operation = makers[operation.inputs[0]]
    discrete = tensors[name].dtype == "bool" or "int" in tensors[name].dtype
    floats = any("float" in tensors[taken].dtype for taken in operation.inputs)
    return operation if discrete and floats and operation.kind in SCORES else None


def _scores(program: Program, operation: Operation, values: Mapping[str, Any]) -> Array:
    from partitioning.steps import fill

    step = program.steps[operation.name]
    args, kwargs = fill((step.args, dict(step.kwargs)), lambda tensor: values[tensor.name])
    arrays = [np.asarray(value).astype(np.float64) for value in (*args, *kwargs.values())]
    found = SCORES[operation.kind](step.operation, *arrays)
    return found.reshape(-1, found.shape[-1])


def _tensor(array: Array) -> Any:
    import tensorflow as tf

    return tf.convert_to_tensor(array)
