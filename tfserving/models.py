"""The models of the server: loaded, found by the `ModelSpec` of a request, and run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from tfserving.config import Model
from tfserving.status import failed_precondition, invalid, not_found
from transports.base import Array
from transports.errors import UsageError

DEFAULT = "serving_default"
SERVE = "serve"
"""The tag of the graph that model servers load."""


@dataclass(frozen=True, eq=False)
class Signature:
    """A function that requests can call: dtypes and shapes of its inputs and the names of its `outputs`, in order.

    The shape of an input is empty if the model leaves the rank open."""

    name: str
    dtypes: Mapping[str, tf.DType]
    shapes: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]
    function: Any

    def run(self, inputs: Mapping[str, Array], wanted: Sequence[str]) -> dict[str, Array]:
        """The outputs `wanted`, in that order. The caller has checked the `inputs`."""
        tensors = [tf.convert_to_tensor(inputs[name], dtype) for name, dtype in self.dtypes.items()]
        # A call with named arguments would rebuild structures, which takes a third of the time of a small stage.
        results = self.function.inference_fn.call_flat(*tensors, *self.function.captured_inputs)
        by_name = dict(zip(self.outputs, results, strict=True))
        return {name: _array(by_name[name]) for name in wanted}


@dataclass(frozen=True, eq=False)
class Version:
    """A loaded SavedModel. `definitions`: its `SignatureDef`s by name. `loaded` keeps its variables alive."""

    model: str
    number: int
    signatures: Mapping[str, Signature]
    definitions: Mapping[str, Any]
    loaded: Any

    def signature(self, name: str) -> Signature:
        """The signature of that name; the default one for an empty name. Raises `Refusal`."""
        chosen = name or DEFAULT
        if chosen not in self.signatures:
            raise failed_precondition(f'Serving signature key "{chosen}" not found.')
        return self.signatures[chosen]


@dataclass(frozen=True, eq=False)
class Models:
    """Every loaded version, by model and number."""

    versions: Mapping[str, Mapping[int, Version]]

    def find(self, spec: Any) -> Version:
        """The version that a `ModelSpec` names; the highest if it names none. Raises `Refusal`."""
        if not spec.name:
            raise invalid("ModelSpec has no name specified.")
        if spec.WhichOneof("version_choice") == "version_label":
            raise invalid(f"Unrecognized servable version label: {spec.version_label}")
        versions = self.versions.get(spec.name, {})
        number, requested = max(versions, default=-1), f"Latest({spec.name})"
        if spec.HasField("version"):
            number, requested = int(spec.version.value), f"Specific({spec.name}, {spec.version.value})"
        if number not in versions:
            raise not_found(f"Servable not found for request: {requested}")
        return versions[number]

    def numbers(self, spec: Any) -> list[int]:
        """The versions that a `ModelSpec` names; all if it names none. Raises `Refusal`."""
        versions = self.versions.get(spec.name, {})
        if spec.HasField("version"):
            if spec.version.value not in versions:
                raise not_found(f"Could not find version {spec.version.value} of model {spec.name}")
            return [spec.version.value]
        if not versions:
            raise not_found(f"Could not find any versions of model {spec.name}")
        return sorted(versions, reverse=True)


def load(models: Sequence[Model]) -> Models:
    """Load all models. Raises `UsageError` for a SavedModel that cannot be served."""
    return Models(
        {model.name: {number: _load(model.name, number, model.folder) for number in model.versions} for model in models}
    )


def _load(model: str, number: int, base: Path) -> Version:
    folder = base / str(number)
    try:
        loaded = tf.saved_model.load(str(folder), tags=[SERVE])
        saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
        served = next(graph for graph in saved.meta_graphs if SERVE in graph.meta_info_def.tags)
    # TensorFlow raises almost any exception for a broken SavedModel.
    except Exception as error:
        raise UsageError(f"model {model!r}: {folder} holds no SavedModel to serve: {error}") from error
    signatures = {name: _signature(name, function) for name, function in loaded.signatures.items()}
    return Version(model, number, signatures, dict(served.signature_def), loaded)


def _signature(name: str, function: Any) -> Signature:
    specs = function.structured_input_signature[1]
    # No public attribute gives the order of a loaded function's inputs. Its outputs are sorted by name.
    dtypes = {key: specs[key].dtype for key in function._arg_keywords}
    shapes = {key: tuple(specs[key].shape) if specs[key].shape.rank is not None else () for key in dtypes}
    return Signature(name, dtypes, shapes, tuple(sorted(function.structured_outputs)), function)


def _array(tensor: Any) -> Array:
    """The tensor as an array, which shares its memory if NumPy has the dtype."""
    known = np.dtype(tensor.dtype.as_numpy_dtype).kind in "biufc"
    array: Array = np.asarray(tensor if known else tensor.numpy())
    return array
