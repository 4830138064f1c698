"""The Keras objects of a portion: how each is made again in another process, its variables and its files.

An object is made from its configuration. If that is incomplete (as for many layers of KerasHub's backbones), the whole
model is made from its own configuration, and the object is taken from the model.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from partitioning.errors import PartitionError, one_line
from partitioning.graph import Graph
from partitioning.keras_internals import forget_calls, fresh_names, is_foreign, sublayers
from partitioning.program import Program, read
from partitioning.steps import Step, TensorRef, fill

ASSETS = "assets"

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def recipe(program: Program, step: Step, number: int, arrays: Arrays, folder: Path) -> Any:
    """How the step's object is made: its configuration, or its place among the operations of the model.

    Only layers in a model of a user's class may have incomplete configurations, since Keras saves such a model without
    its layers' configurations. Raises `PartitionError` for an object whose configuration Keras cannot write.
    """
    models = (layer for layer in sublayers(program.model) if isinstance(layer, keras.Model))
    if not any(is_foreign(model) for model in models):
        return configuration(step.operation, f"operation {step.name!r}")
    with contextlib.suppress(Exception):  # A layer may raise anything.
        record = configuration(step.operation, f"operation {step.name!r}")
        if not any(is_foreign(layer) for layer in sublayers(step.operation)):
            return record
        clone = keras.saving.deserialize_keras_object(record, safe_mode=not program.trust)
        load_assets(number, clone, folder)
        build(replace(step, operation=clone), program.graph)
        restore(number, clone, arrays)
        if _settings(clone) == _settings(step.operation):
            return record
    return list(program.steps).index(step.name)


def _settings(operation: Any) -> list[dict[str, Any]]:
    """The public numbers, texts and switches of each layer in the object."""
    return [
        {key: value for key, value in vars(layer).items() if key[0] != "_" and isinstance(value, int | float | str)}
        for layer in sublayers(operation)
    ]


def remade(recipes: Sequence[Any], model: Any, safe: bool) -> list[Any]:
    """The objects of these recipes, without weights. `model`: the configuration of the model, if a recipe needs it."""
    steps: list[Step] = []
    if model is not None:
        with fresh_names():
            made = keras.saving.deserialize_keras_object(model, safe_mode=safe)
        steps.extend(read(made).steps.values())
    objects = []
    for item in recipes:
        if isinstance(item, int):
            objects.append(steps[item].operation)
            forget_calls(objects[-1])
        else:
            objects.append(keras.saving.deserialize_keras_object(item, safe_mode=safe))
    return objects


def load_assets(number: int, operation: Any, folder: Path) -> None:
    for place, layer in enumerate(sublayers(operation)):
        if (folder / ASSETS / f"{number}/{place}").is_dir():
            layer.load_assets(str(folder / ASSETS / f"{number}/{place}"))


def configuration(item: Any, what: str) -> Any:
    """The configuration of a Keras object as JSON. Raises `PartitionError`, which says `what` it is."""
    try:
        return plain_json(keras.saving.serialize_keras_object(item))
    except Exception as error:  # A layer may raise anything.
        raise PartitionError(
            f"{what} ({type(item).__name__}) cannot be written to a file: {one_line(error)}; give its class a "
            "get_config() and register it with keras.saving.register_keras_serializable()"
        ) from error


def saved(step: Step, number: int, folder: Path) -> Arrays:
    """The variables of the step's layers, in each layer's own format. Writes the layers' assets to files."""
    arrays: Arrays = {}
    for place, layer in enumerate(sublayers(step.operation)):
        store: dict[str, Any] = {}
        layer.save_own_variables(store)
        arrays |= {f"{number}/{place}/{key}": np.asarray(value) for key, value in store.items()}
        if hasattr(layer, "save_assets"):
            assets = folder / ASSETS / f"{number}/{place}"
            assets.mkdir(parents=True, exist_ok=True)
            layer.save_assets(str(assets))
    return arrays


def build(step: Step, graph: Graph) -> None:
    """Make the weights that layers do not make from their configuration alone, by a symbolic call."""

    def symbolic(tensor: TensorRef) -> Any:
        info = graph.tensors[tensor.name]
        return keras.KerasTensor(info.shape, info.dtype)

    if not all(layer.built for layer in sublayers(step.operation)):
        args, kwargs = fill((step.args, dict(step.kwargs)), symbolic)
        step.operation(*args, **kwargs)


def restore(number: int, operation: Any, arrays: Arrays) -> None:
    for place, layer in enumerate(sublayers(operation)):
        prefix = f"{number}/{place}/"
        store = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
        if store:
            layer.load_own_variables(store)
        elif layer._trainable_variables or layer._non_trainable_variables:
            raise ValueError(f"no weights of layer {layer.name!r}")


def plain_json(value: Any) -> Any:
    """The value as JSON reads it back, so that numbers of subclasses of `float` (`np.float64`) become plain floats."""
    return json.loads(json.dumps(value))
