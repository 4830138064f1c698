"""Checks that a model can be split."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import keras

from partitioning.errors import PartitionError, suggest
from partitioning.keras_internals import call_of, is_functional, sublayers


def check_model(model: Any) -> None:
    """Raise `PartitionError` unless `model` has a graph: it is functional, or a built Sequential model."""
    if not isinstance(model, keras.Model):
        raise PartitionError(f"{type(model).__name__} is no Keras model")
    if isinstance(model, keras.Sequential) and not model.layers:
        raise PartitionError(f"the Sequential model {model.name!r} has no layers")
    if isinstance(model, keras.Sequential) and not model.built:
        raise PartitionError(
            f"the Sequential model {model.name!r} is not built: begin it with keras.Input(shape), or call it once"
        )
    if not is_functional(model):
        raise PartitionError(
            f"the model {model.name!r} ({type(model).__name__}) has its own call(), so its graph is unknown; "
            "write it with the functional API: keras.Model(inputs, outputs)"
        )


def check_absent(model: keras.Model, absent: Collection[str]) -> None:
    """Raise `PartitionError` for a name that is no optional input of the model, and if no input is left."""
    optional = {call_of(tensor).operation.name: call_of(tensor).operation.optional for tensor in model.inputs}
    valid = [name for name, may_lack in optional.items() if may_lack]
    for name in absent:
        if name not in valid:
            text = f"input {name!r} is not optional" if name in optional else f"no input {name!r}{suggest(name, valid)}"
            listed = ", ".join(valid) or "none, since no input was built with keras.Input(optional=True)"
            raise PartitionError(f"--absent {name}: {text}; valid: {listed}")
    if {*absent} == optional.keys():
        raise PartitionError("--absent: every input of the model would be absent; give at least one")


def check_stateless(operation: Any, name: str) -> None:
    """Raise `PartitionError` if a layer of the operation called `name` keeps a state between requests."""
    for layer in sublayers(operation):
        if getattr(layer, "stateful", False):
            raise PartitionError(
                f"layer {layer.name!r} of operation {name!r} ({type(layer).__name__}) keeps a state from request to "
                "request (stateful=True), so its answers depend on earlier requests; build it with stateful=False"
            )
