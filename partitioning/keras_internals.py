"""All that the package takes from inside Keras 3, in one place: how a symbolic tensor came about.

Keras records every symbolic call as a node, and gives each symbolic tensor the history `(operation, node_index,
tensor_index)`. No public name leads from a tensor to its call, or tells a functional model from a subclassed one.
Read on Keras 3.15: `keras/src/ops/node.py`, `ops/function.py`, `models/functional.py`, `models/sequential.py`.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

_COUNTERS = "object_name_uids"


@dataclass(frozen=True)
class Call:
    """One symbolic call: what was called with which arguments, and the symbolic tensors that came of it, flat.

    `index` counts the calls of the operation, in the order in which they were written.
    """

    operation: Any
    index: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Any, ...]

    @property
    def inputs(self) -> list[Any]:
        """The symbolic tensors among the arguments, in the arguments' order, repeated where they are."""
        flat = keras.tree.flatten((self.args, dict(self.kwargs)))
        return [value for value in flat if isinstance(value, keras.KerasTensor)]


def call_of(tensor: Any) -> Call:
    """The call that made a symbolic tensor. An input's is that of its `InputLayer`, without arguments."""
    operation, index, _ = tensor._keras_history
    node = operation._inbound_nodes[index]
    return Call(operation, index, node.arguments.args, node.arguments.kwargs, tuple(node.outputs))


def is_functional(operation: Any) -> bool:
    """Whether the operation is a model whose symbolic graph is all that its `call` does.

    A built `Sequential` has such a graph inside. A class of one's own with its own `call` does something else.
    """
    if isinstance(operation, keras.Sequential):
        return type(operation).call is keras.Sequential.call and operation._functional is not None
    return isinstance(operation, Functional) and type(operation).call is Functional.call


def has_mask(tensor: Any) -> bool:
    """Whether Keras attached an implicit mask to a symbolic tensor (`Embedding(mask_zero=True)`, `Masking`)."""
    return getattr(tensor, "_keras_mask", None) is not None


def inference_kwargs(operation: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The recorded keyword arguments, such that a direct call does what it does in `model(x, training=False)`.

    There Keras puts `training=False` in place of what was recorded or is the default (a preprocessing layer's is
    `True`). It is given only where it changes something: a call without keywords is the cheaper one.
    """
    if not isinstance(operation, keras.Layer):
        return dict(kwargs)
    parameter = inspect.signature(operation.call).parameters.get("training")
    trains = parameter is not None and parameter.default not in (None, False, inspect.Parameter.empty)
    return dict(kwargs) | ({"training": False} if trains or "training" in kwargs else {})


def sublayers(operation: Any) -> list[Any]:
    """A layer and all layers inside it; nothing for an operation that is no layer."""
    return list(operation._flatten_layers()) if isinstance(operation, keras.Layer) else []


def download_target(error: BaseException) -> str | None:
    """The file that `keras.utils.get_file` was about to write when it raised `error`.

    Its messages name the address alone, and for some models (NASNet) the file is called otherwise.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "get_file" and "download_target" in frame.f_locals:
            return str(frame.f_locals["download_target"])
    return None


@contextmanager
def fresh_names() -> Iterator[None]:
    """Names that Keras makes up count from nought inside: a model's operations are called the same at every load.

    The process's own counters continue afterwards, so that nothing else is renamed. (The public
    `keras.utils.clear_session` would also drop the global data type policy and TensorFlow's kernel caches.)
    """
    before = global_state.get_global_attribute(_COUNTERS)
    global_state.set_global_attribute(_COUNTERS, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTERS, before)
