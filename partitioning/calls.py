"""The calls in a model: their names, and which calls of nested models are read as the nested model's operations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from partitioning.keras_internals import Call, input_structure, is_functional, mask_of


def can_flatten(call: Call) -> bool:
    """Whether a nested model takes its inputs unchanged (rank, dtype, no mask). If not, it is kept as one operation."""
    given = [value for key, value in call.kwargs.items() if key != "training"]
    # For several inputs without masks, Keras records a structure of `None`s.
    if any(value is not None for value in keras.tree.flatten(given)) or not is_functional(call.operation):
        return False
    own, inputs = call.operation.inputs, call.inputs
    if len(call.args) != 1 or len(own) != len(inputs) or not _same_structure(call.args[0], call.operation):
        return False
    return all(len(x.shape) == len(y.shape) and x.dtype == y.dtype for x, y in zip(own, inputs, strict=True))


def _same_structure(given: Any, model: keras.Model) -> bool:
    """Whether the model takes the flat values of `given` in their order. It selects from dictionaries by name."""
    if not isinstance(given, dict):
        return True
    try:
        keras.tree.assert_same_structure(given, input_structure(model))
    except (ValueError, TypeError):
        return False
    return True


def names_of(calls: Sequence[Call]) -> list[str]:
    """The names of calls: the name of the operation, and `name#k` for its k-th further call.

    If Keras has recorded an implicit mask as an argument, the operations that compute it are among the calls. The last
    of them is named `x:mask`, where `x` is the first layer that attaches the mask.
    """
    indices: dict[int, list[int]] = {}
    for call in calls:
        indices.setdefault(id(call.operation), []).append(call.index)
    names = []
    for call in calls:
        rank = sorted(indices[id(call.operation)]).index(call.index)
        names.append(f"{call.operation.name}#{rank}" if rank else call.operation.name)
    masked: dict[int, str] = {}
    for call, name in zip(calls, names, strict=True):
        for tensor in call.outputs:
            masked.setdefault(id(mask_of(tensor)), f"{name}:mask")
    return [
        masked.get(id(call.outputs[0]), name) if len(call.outputs) == 1 else name
        for call, name in zip(calls, names, strict=True)
    ]
