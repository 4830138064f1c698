"""Archives: a portion of a model in files, which another process reads and executes.

    operations.json   graph, argument templates, and how each Keras object is made, numbered in order
    arrays.npz        `OBJECT/LAYER/KEY`: a variable of a layer in an object; `constant/k`: an array among the arguments
    assets/           `OBJECT/LAYER/`: the files that a layer writes itself (vocabularies)

Rules: Nothing is pickled. An object that several operations share is written once (`partitioning.objects`). Arrays of
dtypes that NumPy does not define (bfloat16) are written as unsigned integers; `operations.json` has their dtypes.
Reading imports the modules that the portion names, and runs pickled lambdas only if the model was loaded with trust.
None of this makes a foreign archive safe: load only archives that you exported yourself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import msgspec
import numpy as np

from partitioning.errors import PartitionError, import_modules, one_line
from partitioning.graph import ITEMSIZES, Graph
from partitioning.objects import (
    ASSETS,
    Array,
    Arrays,
    build,
    configuration,
    load_assets,
    plain_json,
    recipe,
    remade,
    restore,
    saved,
)
from partitioning.program import Program
from partitioning.steps import Masks, Step, TensorRef

OPERATIONS = "operations.json"
ARRAYS = "arrays.npz"
FORMAT = 2


class _Step(msgspec.Struct):
    name: str
    object: int
    arguments: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    masks: Masks | None


class _Record(msgspec.Struct):
    format: int
    graph: Graph
    objects: list[Any]
    steps: list[_Step]
    dtypes: dict[str, str]
    imports: tuple[str, ...]
    trust: bool
    model: Any = None
    """The configuration of the model, if an object is taken from it."""


def export(program: Program, operations: Iterable[str], folder: Path) -> None:
    """Write the portion of the program with these operations; it replaces an earlier one. Makes the folder.

    Raises `PartitionError` for an operation that the program lacks and for an object that cannot be written, and
    `OSError` if the files cannot be written.
    """
    portion = program.portion(operations)
    arrays: Arrays = {}
    numbers: dict[int, int] = {}
    objects: list[Any] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / ASSETS, ignore_errors=True)
        for step in portion.steps.values():
            if id(step.operation) not in numbers:
                number = numbers[id(step.operation)] = len(objects)
                variables = saved(step, number, folder)
                objects.append(recipe(program, step, number, variables, folder))
                arrays |= variables
        steps = [_step_record(step, numbers[id(step.operation)], arrays) for step in portion.steps.values()]
        dtypes = {name: array.dtype.name for name, array in arrays.items()}
        in_model = any(isinstance(item, int) for item in objects)
        model = configuration(program.model, "the model") if in_model else None
        record = _Record(FORMAT, portion.graph, objects, steps, dtypes, portion.imports, portion.trust, model)
        (folder / OPERATIONS).write_text(json.dumps(msgspec.to_builtins(record)))
        np.savez(folder / ARRAYS, **{name: _plain(array) for name, array in arrays.items()})  # type: ignore[arg-type]
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror or error}") from error


def load(folder: Path) -> Program:
    """The program in the folder. Raises `PartitionError`, which names the file, if a file cannot be used."""
    with _blaming(folder / OPERATIONS):
        decoded = json.loads((folder / OPERATIONS).read_text())
        if decoded["format"] != FORMAT:
            raise ValueError(f"format {decoded['format']}, not {FORMAT}; export it again with this version")
        record = msgspec.convert(decoded, _Record, str_keys=True)
    import_modules(record.imports)
    with _blaming(folder / ARRAYS), np.load(folder / ARRAYS, allow_pickle=False) as file:
        arrays = {name: file[name].view(getattr(ml_dtypes, dtype, dtype)) for name, dtype in record.dtypes.items()}
    with _blaming(folder / OPERATIONS):
        safe = not record.trust
        objects = remade(record.objects, record.model, safe)
        steps = {item.name: _step(item, objects, arrays, safe) for item in record.steps}
        _check(record.graph, steps)
        # Assets come first, since a vocabulary may determine the shape of a weight.
        for number, operation in enumerate(objects):
            load_assets(number, operation, folder)
        for step in steps.values():
            build(step, record.graph)
    with _blaming(folder / ARRAYS):
        for number, operation in enumerate(objects):
            restore(number, operation, arrays)
    return Program(record.graph, steps, None, record.imports, record.trust)


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Raise any error in the block as a `PartitionError` that names this file."""
    try:
        yield
    except FileNotFoundError as error:
        raise PartitionError(f"{path} does not exist; export the portion of the model again") from error
    # Keras raises almost any exception for a broken configuration, and so does zipfile for a broken archive.
    except Exception as error:
        raise PartitionError(f"{path} is not a usable portion of a model: {one_line(error)}") from error


def _step_record(step: Step, number: int, arrays: Arrays) -> _Step:
    """The record of a step. Adds the arrays among its arguments to `arrays`."""
    try:
        arguments = plain_json(keras.saving.serialize_keras_object(_encoded((step.args, dict(step.kwargs)), arrays)))
    except Exception as error:
        raise PartitionError(
            f"an argument of operation {step.name!r} cannot be written to a file: {one_line(error)}"
        ) from error
    return _Step(step.name, number, arguments, step.inputs, step.outputs, step.masks)


def _encoded(value: Any, arrays: Arrays) -> Any:
    """The template with a small dictionary for each tensor and array; Keras encodes the rest (tuples, slices, ...)."""
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


def _step(record: _Step, objects: Sequence[Any], arrays: Mapping[str, Array], safe: bool) -> Step:
    template = keras.saving.deserialize_keras_object(record.arguments, safe_mode=safe)
    args, kwargs = _decoded(template, arrays)
    if not isinstance(args, tuple | list) or not isinstance(kwargs, dict):
        raise ValueError(f"the arguments of step {record.name!r} are no list and dictionary")
    return Step(record.name, objects[record.object], tuple(args), kwargs, record.inputs, record.outputs, record.masks)


def _check(graph: Graph, steps: Mapping[str, Step]) -> None:
    """Raise `ValueError` if graph and steps contradict each other."""
    described = {operation.name: (operation.inputs, operation.outputs) for operation in graph.operations}
    if described != {name: (step.inputs, step.outputs) for name, step in steps.items()}:
        raise ValueError("its steps are not the operations of its graph")
    for step in steps.values():
        flat = keras.tree.flatten((step.args, dict(step.kwargs)))
        references = [value.name for value in flat if isinstance(value, TensorRef)]
        if unknown := [name for name in references if name not in step.inputs]:
            raise ValueError(f"step {step.name!r} has an argument {unknown[0]!r}, which is not among its inputs")
        for name in (*step.inputs, *step.outputs):
            if name not in graph.tensors or graph.tensors[name].dtype not in ITEMSIZES:
                raise ValueError(f"tensor {name!r} of step {step.name!r} is not described")


def _plain(array: Array) -> Array:
    """The array with a dtype that NumPy can write: the bits of other dtypes as unsigned integers of the same size."""
    return array if array.dtype.kind in "biufc" else array.view(f"u{array.dtype.itemsize}")
