"""Every use of Keras 3 that is not public: the calls behind symbolic tensors, masks, scopes, lookup tables.

Keras records every symbolic call as a node, and gives each symbolic tensor the history `(operation, node_index,
tensor_index)`. No public name leads from a tensor to its call, or distinguishes functional models from subclassed ones.
Written for Keras 3.15: `keras/src/ops/node.py`, `ops/function.py`, `models/functional.py`, `models/sequential.py`,
`layers/layer.py`, `backend/common/masking.py`.
"""

from __future__ import annotations

import inspect
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf
from keras.src import backend
from keras.src.backend.common import global_state
from keras.src.models.functional import Functional

_COUNTERS, _UNMADE = "object_name_uids", "uninitialized_variables"


@dataclass(frozen=True)
class Call:
    """One symbolic call: the operation, its arguments, and the symbolic tensors that it returned, flat.

    `index` counts the calls of the operation in the order in which they were made.
    """

    operation: Any
    index: int
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[Any, ...]

    @property
    def inputs(self) -> list[Any]:
        """The symbolic tensors among the arguments, in their order, with repetitions."""
        flat = keras.tree.flatten((self.args, dict(self.kwargs)))
        return [value for value in flat if isinstance(value, keras.KerasTensor)]


def call_of(tensor: Any) -> Call:
    """The call that returned a symbolic tensor. For an input, it is the call of its `InputLayer`, without arguments."""
    operation, index, _ = tensor._keras_history
    node = operation._inbound_nodes[index]
    return Call(operation, index, node.arguments.args, node.arguments.kwargs, tuple(node.outputs))


def calls_between(inputs: Iterable[Any], outputs: Iterable[Any]) -> list[Call]:
    """Every call between the inputs and the outputs, in an order in which they can run, branch by branch.

    The search is depth first from the outputs. It uses no recursion, since NASNetLarge is a thousand operations deep.
    """
    done = {id(tensor) for tensor in inputs}
    calls: list[Call] = []
    pending = list(outputs)[::-1]
    while pending:
        tensor = pending[-1]
        if id(tensor) in done:
            pending.pop()
            continue
        call = call_of(tensor)
        waiting = [x for x in call.inputs if id(x) not in done]
        if waiting:
            pending.extend(waiting[::-1])
        else:
            calls.append(call)
            done.update(id(x) for x in call.outputs)
    return calls


def is_functional(operation: Any) -> bool:
    """Whether the operation is a model whose `call` runs its symbolic graph and does nothing else.

    A built `Sequential` has such a graph. A subclass with its own `call` may do anything.
    """
    if isinstance(operation, keras.Sequential):
        return type(operation).call is keras.Sequential.call and operation._functional is not None
    return isinstance(operation, Functional) and type(operation).call is Functional.call


def functional_of(model: Any) -> Any:
    """The functional model inside a `Sequential`; any other `model` itself."""
    return model._functional if isinstance(model, keras.Sequential) else model


def input_structure(model: Any) -> Any:
    """A functional model's symbolic inputs, in the lists and dictionaries that it takes."""
    return functional_of(model)._inputs_struct


def execution_order(model: Any) -> dict[tuple[int, int], int]:
    """`(id of the operation, index of the call)` -> the call's position in the order in which Keras runs the model."""
    depths = functional_of(model)._nodes_by_depth
    nodes = (node for depth in sorted(depths, reverse=True) for node in depths[depth])
    keys = ((id(node.operation), node.operation._inbound_nodes.index(node)) for node in nodes)
    return {key: place for place, key in enumerate(keys)}


def mask_of(tensor: Any) -> Any:
    """The implicit mask that Keras attached to a tensor, symbolic or not; `None` if there is none."""
    return backend.get_keras_mask(tensor)


def set_mask(tensor: Any, mask: Any) -> None:
    """Attach an implicit mask to a tensor, or remove it (`None`)."""
    backend.set_keras_mask(tensor, mask)


def is_foreign(layer: Any) -> bool:
    """Whether the layer's class is not one of Keras itself."""
    return not type(layer).__module__.startswith("keras.src.")


def may_mask(operation: Any) -> bool:
    """Whether the operation may attach a mask that none of its inputs has."""
    return any(
        isinstance(layer, keras.layers.Masking)
        or getattr(layer, "mask_zero", False)
        or (is_foreign(layer) and not getattr(type(layer).compute_mask, "_is_default", False))
        for layer in sublayers(operation)
    )


def may_be_misrecorded(operation: Any) -> bool:
    """Whether Keras may have recorded wrong shapes or dtypes of its results.

    Keras records users' layers with a `compute_output_shape` with their compute dtype, encoding layers with the wrong
    dtype, and `RandomCrop` with its shape in training.
    """
    return any(is_foreign(layer) or ".preprocessing." in type(layer).__module__ for layer in sublayers(operation))


def forget_calls(operation: Any) -> None:
    """Remove the record of the operation's symbolic calls, which refers to the other operations of its model."""
    operation._inbound_nodes.clear()
    operation._outbound_nodes.clear()


def inference_kwargs(operation: Any, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments with which a direct call does the same as in `model(x, training=False)`.

    In that call Keras replaces the recorded or default `training` by `False` (the default of preprocessing layers is
    `True`), and layers inside others inherit this value, also through a layer that takes no `training`. Operations
    without inner layers keep their arguments if their `training` is off by default.
    """
    parameter = inspect.signature(operation.call).parameters.get("training")
    trains = parameter is not None and parameter.default not in (None, False, inspect.Parameter.empty)
    inherited = len(sublayers(operation)) > 1
    return dict(kwargs) | ({"training": False} if trains or inherited or "training" in kwargs else {})


def sublayers(operation: Any) -> list[Any]:
    """A layer and all layers inside it; empty for an operation that is no layer."""
    return list(operation._flatten_layers()) if isinstance(operation, keras.Layer) else []


def resources(operation: Any) -> list[Any]:
    """The lookup tables of a layer and of the layers inside it, which a SavedModel must track."""
    values = (value for layer in sublayers(operation) for value in vars(layer).values())
    return [value for value in values if isinstance(value, tf.saved_model.experimental.TrackableResource)]


@contextmanager
def legal_scopes(operations: Iterable[Any]) -> Iterator[None]:
    """Give layers names that are legal scopes of a TensorFlow graph during the block.

    Keras allows any name, and opens a scope of that name in every call.
    """
    layers = {id(layer): layer for operation in operations for layer in sublayers(operation)}
    with _renamed(layers.values(), "name"):
        yield


@contextmanager
def legal_variables(variables: Iterable[Any]) -> Iterator[None]:
    """`legal_scopes` for TensorFlow variables, which `tf.saved_model.save` copies into a graph under layers' names."""
    with _renamed(variables, "_handle_name", ":0"):
        yield


@contextmanager
def _renamed(objects: Iterable[Any], attribute: str, suffix: str = "") -> Iterator[None]:
    before = [(item, getattr(item, attribute)) for item in objects]
    try:
        for item, name in before:
            legal = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", name.removesuffix(suffix))
            setattr(item, attribute, (legal if re.match("[A-Za-z0-9.]", legal) else f"x{legal}") + suffix)
        yield
    finally:
        for item, name in before:
            setattr(item, attribute, name)


def is_keras_operation(name: str) -> bool:
    """Whether a class of that name is one of Keras's operations, such as `Greater`, and not a layer."""
    modules = [module for key, module in sys.modules.items() if key.startswith("keras.src.ops.")]
    found = (getattr(module, name, None) for module in modules)
    return any(isinstance(item, type) and issubclass(item, keras.Operation) for item in found)


def download_target(error: BaseException) -> str | None:
    """The file that `keras.utils.get_file` was about to write when it raised `error`.

    Keras's messages name only the address, and for some models (NASNet) the file has another name.
    """
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_name == "get_file" and "download_target" in frame.f_locals:
            return str(frame.f_locals["download_target"])
    return None


def unmade_weights(build: Callable[[], keras.Model]) -> int:
    """The number of weights of the model that `build` makes; no weights are made in memory."""
    with fresh_names(), keras.StatelessScope(initialize_variables=False):
        count: int = build().count_params()
    global_state.set_global_attribute(_UNMADE, [])
    return count


@contextmanager
def fresh_names() -> Iterator[None]:
    """Restart the counters of generated names in the block, so that a model gets the same names at every load.

    Afterwards the process's counters continue. (The public `keras.utils.clear_session` would also drop the global data
    type policy and TensorFlow's kernel caches.)
    """
    before = global_state.get_global_attribute(_COUNTERS)
    global_state.set_global_attribute(_COUNTERS, None)
    try:
        yield
    finally:
        global_state.set_global_attribute(_COUNTERS, before)
