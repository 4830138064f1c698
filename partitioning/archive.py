"""Archives: how a portion of a model travels through the file system, from who splits it to who runs it.

    operations.json   graph, argument templates and the configuration of each Keras object, by the object's number
    arrays.npz        `OBJECT/k`: the k-th weight of a Keras object; `constant/k`: the k-th array among the arguments

Rules: no pickle anywhere; an object that several operations share is written once; a dtype that NumPy does not know
(bfloat16) is written as unsigned integers, its name in `operations.json`. Keras objects are deserialised with
`safe_mode=True`, which refuses pickled lambdas but is no boundary: load only what you or yours exported.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import msgspec
import numpy as np
import numpy.typing as npt

from partitioning.errors import PartitionError
from partitioning.graph import Graph, TensorInfo
from partitioning.keras_internals import sublayers
from partitioning.program import Program
from partitioning.steps import Step, TensorRef, fill

OPERATIONS = "operations.json"
ARRAYS = "arrays.npz"
FORMAT = 1

Array = npt.NDArray[Any]
Arrays = dict[str, Array]


def export(program: Program, operations: Iterable[str], folder: Path) -> None:
    """Writes the portion of the program that these operations make. The folder is made where it is not there.

    Raises `PartitionError` for an operation that the program has not, or whose Keras object cannot be written.
    """
    portion = program.portion(operations)
    arrays: Arrays = {}
    numbers: dict[int, int] = {}
    objects: list[Any] = []
    for step in portion.steps.values():
        if id(step.operation) not in numbers:
            numbers[id(step.operation)] = len(objects)
            objects.append(_serialised(step))
            arrays |= {f"{len(objects) - 1}/{k}": np.asarray(w) for k, w in enumerate(_weights(step.operation))}
    steps = [_step_record(step, numbers[id(step.operation)], arrays) for step in portion.steps.values()]
    dtypes = {name: array.dtype.name for name, array in arrays.items()}
    record = {
        "format": FORMAT,
        "graph": msgspec.to_builtins(portion.graph),
        "objects": objects,
        "steps": steps,
        "dtypes": dtypes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / OPERATIONS).write_text(json.dumps(record))
    np.savez(folder / ARRAYS, **{name: _plain(array) for name, array in arrays.items()})  # type: ignore[arg-type]


def load(folder: Path) -> Program:
    """The program written in the folder. Raises `PartitionError`, with the file's name, for one that is not usable."""
    with _blaming(folder / OPERATIONS):
        record = json.loads((folder / OPERATIONS).read_text())
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']}, not {FORMAT}; export it again with this version")
        graph = msgspec.convert(record["graph"], Graph)
    with _blaming(folder / ARRAYS):
        arrays = _arrays(folder / ARRAYS, record["dtypes"])
    with _blaming(folder / OPERATIONS):
        objects = [keras.saving.deserialize_keras_object(item, safe_mode=True) for item in record["objects"]]
        steps = {item["name"]: _step(item, objects, arrays) for item in record["steps"]}
        _build(steps.values(), graph)
    with _blaming(folder / ARRAYS):
        for number, operation in enumerate(objects):
            _restore(operation, [arrays[name] for name in _weight_names(number, arrays)])
    return Program(graph, steps)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Whatever fails inside failed because of this file."""
    try:
        yield
    except FileNotFoundError as error:
        raise PartitionError(f"{path} is not there; export the portion of the model again") from error
    # Keras raises nearly anything for a configuration that it cannot use, and so does zipfile for a broken archive.
    except Exception as error:
        raise PartitionError(f"{path} is not a usable portion of a model: {type(error).__name__}: {error}") from error


def _serialised(step: Step) -> Any:
    try:
        record = keras.saving.serialize_keras_object(step.operation)
        json.dumps(record)
    except Exception as error:
        raise PartitionError(
            f"operation {step.name!r} ({type(step.operation).__name__}) cannot be written to a file: {error}; "
            "give its class a get_config() and register it with keras.saving.register_keras_serializable()"
        ) from error
    return record


def _weights(operation: Any) -> Sequence[Any]:
    return operation.weights if isinstance(operation, keras.Layer) else ()


def _weight_names(number: int, arrays: Mapping[str, Array]) -> list[str]:
    count = sum(name.startswith(f"{number}/") for name in arrays)
    return [f"{number}/{k}" for k in range(count)]


def _step_record(step: Step, number: int, arrays: Arrays) -> dict[str, Any]:
    template = _encoded((step.args, dict(step.kwargs)), arrays)
    try:
        arguments = keras.saving.serialize_keras_object(template)
        json.dumps(arguments)
    except Exception as error:
        raise PartitionError(f"an argument of operation {step.name!r} cannot be written to a file: {error}") from error
    return {
        "name": step.name,
        "object": number,
        "arguments": arguments,
        "inputs": step.inputs,
        "outputs": step.outputs,
    }


def _encoded(value: Any, arrays: Arrays) -> Any:
    """The template with places and arrays as small dictionaries; the rest is Keras' to write (tuples, slices, ...)."""
    if isinstance(value, TensorRef):
        return {"$tensor": value.name}
    if isinstance(value, np.ndarray | np.generic) or keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        name = f"constant/{len(arrays)}"
        arrays[name] = np.asarray(value)
        return {"$array": name}
    if isinstance(value, list | tuple):
        return type(value)(_encoded(item, arrays) for item in value)
    if isinstance(value, dict):
        return {key: _encoded(item, arrays) for key, item in value.items()}
    return value


def _decoded(value: Any, arrays: Mapping[str, Array]) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_decoded(item, arrays) for item in value)
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$tensor"}:
        return TensorRef(value["$tensor"])
    if value.keys() == {"$array"}:
        return arrays[value["$array"]]
    return {key: _decoded(item, arrays) for key, item in value.items()}


def _step(record: Mapping[str, Any], objects: Sequence[Any], arrays: Mapping[str, Array]) -> Step:
    template = keras.saving.deserialize_keras_object(record["arguments"], safe_mode=True)
    args, kwargs = _decoded(template, arrays)
    operation = objects[record["object"]]
    return Step(record["name"], operation, args, kwargs, tuple(record["inputs"]), tuple(record["outputs"]))


def _build(steps: Iterable[Step], graph: Graph) -> None:
    """Makes the weights of layers that their configuration alone did not build, by a symbolic call."""
    for step in steps:
        if all(layer.built for layer in sublayers(step.operation)):
            continue
        args, kwargs = fill((step.args, dict(step.kwargs)), lambda tensor: _symbolic(graph.tensors[tensor.name]))
        step.operation(*args, **kwargs)


def _symbolic(info: TensorInfo) -> Any:
    return keras.KerasTensor(info.shape, info.dtype)


def _restore(operation: Any, weights: Sequence[Array]) -> None:
    if weights or _weights(operation):
        operation.set_weights(weights)
    for layer in sublayers(operation):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def _plain(array: Array) -> Array:
    """The array in a dtype that NumPy can write: another's bits as unsigned integers of the same size."""
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")


def _arrays(path: Path, dtypes: Mapping[str, str]) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name].view(_dtype(dtype)) for name, dtype in dtypes.items()}


def _dtype(name: str) -> np.dtype[Any]:
    return np.dtype(getattr(ml_dtypes, name, name))
