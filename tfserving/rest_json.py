"""Arrays in the JSON of the REST interface (https://www.tensorflow.org/tfx/serving/api_rest, `util/json_tensor.cc`).

    row      {"instances": [x, ...]} or [{"a": x, "b": y}, ...]   answered by {"predictions": [...]}
    column   {"inputs": x} or {"a": x, "b": y}                    answered by {"outputs": ...}

Rules: an input may be given without a name only if it is the only input. Bytes are written as `{"b64": "..."}`, and so
are strings of outputs whose names end in `_bytes`. A number must fit its type without loss: 1.5 is no integer and
`true` is no number.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfserving import json_arrays
from tfserving.status import Refusal, invalid, unimplemented
from transports.base import Array

ROW, COLUMN = "instances", "inputs"
ANSWERS: Mapping[str, str] = {ROW: "predictions", COLUMN: "outputs"}
BYTES = "_bytes"

Dtypes = Mapping[str, tf.DType]
Reader = Callable[[list[Any], set[type], tf.DType], Array]
"""(values, their Python types, the dtype) -> the array."""


def parse(body: bytes | bytearray) -> dict[str, Any]:
    """The object in `body`. Raises `Refusal`."""
    if not body:
        raise invalid("JSON Parse error: The document is empty")
    try:
        document = json_arrays.parse(body)
    except (ValueError, RecursionError) as error:
        raise invalid(f"JSON Parse error: Invalid value. {error}") from error
    if not isinstance(document, dict):
        raise invalid(f"JSON Value: {_shown(document)} Is not object")
    if not isinstance(document.get("signature_name", ""), str):
        raise invalid(
            f"JSON Value: {_shown(document)} not formatted correctly. 'signature_name' key must be a string value."
        )
    return document


def read_inputs(document: Mapping[str, Any], dtypes: Dtypes) -> tuple[str, dict[str, Array]]:
    """The form of a request (`instances` or `inputs`), and its arrays. Raises `Refusal`."""
    forms = [form for form in (ROW, COLUMN) if form in document]
    if not forms:
        raise invalid("Missing 'inputs' or 'instances' key")
    if len(forms) > 1:
        raise invalid(
            f"JSON Value: {_shown(document)} Not formatted correctly expecting only one of "
            "'inputs' or 'instances' keys to exist "
        )
    return forms[0], (_rows if forms[0] == ROW else _columns)(document[forms[0]], dtypes)


def write_outputs(form: str, outputs: Mapping[str, Array]) -> bytes:
    """The answer, in the form of its request. Raises `Refusal` for tensors that JSON cannot represent."""
    listed = {name: _listed(name, array) for name, array in outputs.items()}
    written = _written_rows(outputs, listed) if form == ROW else _alone(listed)
    return json_arrays.write({ANSWERS[form]: written}, outputs.values())


def _rows(instances: Any, dtypes: Dtypes) -> dict[str, Array]:
    if not isinstance(instances, list):
        raise invalid(f"JSON Value: {_shown(instances)} Expecting 'instances' to be an list/array")
    if not instances:
        raise invalid("JSON Value: [] No values in 'instances' array")
    if not _is_object(instances[0]) and len(dtypes) > 1:
        raise invalid(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as per "
            "tensorinfo_map"
        )
    objects = _is_object(instances[0])
    items = [_instance(number, item, objects, dtypes) for number, item in enumerate(instances)]
    return {name: _stacked([item[name] for item in items]) for name in dtypes}


def _instance(number: int, item: Any, objects: bool, dtypes: Dtypes) -> dict[str, Array]:
    if _is_object(item) != objects:
        expected = "object but got list" if objects else "value/list but got object"
        raise invalid(f"Expecting {expected} at item {number} of input list")
    named = item if objects else {next(iter(dtypes)): item}
    try:
        arrays = {name: _tensor(value, _dtype(name, dtypes)) for name, value in named.items()}
    except Refusal as error:
        raise invalid(f"Failed to process element: {number} of 'instances' list. Error: {error}") from error
    if set(arrays) != set(dtypes):
        raise invalid(
            f"Failed to process element: {number} of 'instances' list. JSON object: {_shown(item)} keys must be equal "
            f"to: {','.join(sorted(dtypes))}"
        )
    return arrays


def _stacked(arrays: Sequence[Array]) -> Array:
    for number, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            raise invalid(
                f"Failed to process element: {number} of 'instances' list. Error: INVALID_ARGUMENT: "
                f"Expecting shape {list(arrays[0].shape)} but got: {list(array.shape)}"
            )
    return np.stack(arrays)


def _columns(inputs: Any, dtypes: Dtypes) -> dict[str, Array]:
    if _is_object(inputs):
        for name in dtypes:
            if name not in inputs:
                raise invalid(f"Missing named input: {name} in 'inputs' object.")
        return {name: _tensor(inputs[name], dtype) for name, dtype in dtypes.items()}
    if len(dtypes) > 1:
        raise invalid(
            "inputs is a plain value/list, but expecting an object as multiple input tensors required as per "
            "tensorinfo_map"
        )
    return {name: _tensor(inputs, dtype) for name, dtype in dtypes.items()}


def _dtype(name: str, dtypes: Dtypes) -> tf.DType:
    if name not in dtypes:
        raise invalid(f"JSON object: does not have named input: {name}")
    return dtypes[name]


def _tensor(value: Any, dtype: tf.DType) -> Array:
    """A value or nested lists as an array. Lists are checked level by level: an image has a hundred thousand values."""
    if dtype.name not in READERS:
        raise unimplemented(f"Conversion of JSON Value: {_shown(value)} to type: {dtype.name}")
    shape = _shape(value)
    level = [value]
    for depth, extent in enumerate(shape):
        for item in level:
            _check_list(item, depth, extent, len(shape))
        level = list(itertools.chain.from_iterable(level))
    kinds = set(map(type, level))  # takes milliseconds for a hundred thousand values, so it is done once
    if list in kinds:
        raise invalid(f"Encountered list at unexpected level: {len(shape)} expected < {len(shape)}")
    return READERS[dtype.name](level, kinds, dtype).reshape(shape)


def _shape(value: Any) -> tuple[int, ...]:
    """The shape by the first value at every level; `_tensor` checks the others."""
    shape = []
    while isinstance(value, list):
        shape.append(len(value))
        value = value[0] if value else None
    return tuple(shape)


def _check_list(item: Any, depth: int, extent: int, rank: int) -> None:
    if not isinstance(item, list):
        raise invalid(
            f"JSON Value: {_shown(item)} found at incorrect level: {depth + 1} in the JSON DOM. "
            f"Expected at level: {rank}"
        )
    if len(item) != extent:
        raise invalid(f"Encountered list at unexpected size: {len(item)} at level: {depth} expected size: {extent}")


def _numbers(values: list[Any], kinds: set[type], dtype: tf.DType, valid: set[type], word: str) -> Array:
    for value in values if kinds - valid else ():
        if type(value) not in valid:
            raise invalid(f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: {word}")
    try:
        with np.errstate(over="ignore"):  # checked below
            array: Array = np.array(values, dtype.as_numpy_dtype)
    except OverflowError as error:
        raise invalid(f"JSON Value: {_shown(values)} is not of expected type: {word}: {error}") from error
    if dtype.is_floating:
        _check_lossless(values, array, word, whole=int in kinds)
    return array


def _check_lossless(values: list[Any], array: Array, word: str, *, whole: bool) -> None:
    """Refuse whole numbers that the type cannot hold exactly, and numbers beyond its range."""
    largest = MANTISSAS[word]
    for value, held in zip(values, array.tolist(), strict=True) if whole or not np.isfinite(array).all() else ():
        if (type(value) is int and abs(value) > largest) or (math.isinf(held) and not math.isinf(value)):
            raise invalid(f"Cannot convert JSON value: {value} to {word} without loss of precision.")


def _reader(valid: set[type], word: str) -> Reader:
    return lambda values, kinds, dtype: _numbers(values, kinds, dtype, valid, word)


def _strings(values: list[Any], kinds: set[type], dtype: tf.DType) -> Array:
    array = np.empty(len(values), object)
    array[:] = [_string(value) for value in values]
    return array


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, dict):
        raise invalid(f"JSON Value: {_shown(value)} Type: {_kind(value)} is not of expected type: string")
    if not _is_base64(value):
        raise invalid(f"JSON Value: {_shown(value)} not formatted correctly for base64 data")
    try:
        return base64.b64decode(value["b64"], validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to base64 decode") from error


MANTISSAS: Mapping[str, int] = {"float": 2**24 - 1, "double": 2**53 - 1}
"""C++ type -> the largest n such that the type represents every whole number up to n."""

READERS: Mapping[str, Reader] = {
    "float32": _reader({int, float}, "float"),
    "float64": _reader({int, float}, "double"),
    "bool": _reader({bool}, "bool"),
    "string": _strings,
    **{name: _reader({int}, name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint32", "uint64")},
}
"""dtype -> reader of a flat list. TensorFlow Serving reads no other dtypes from JSON."""


def _written_rows(outputs: Mapping[str, Array], listed: Mapping[str, Any]) -> list[Any]:
    sizes = {}
    for name, array in outputs.items():
        if not array.ndim:
            raise invalid(f"Tensor name: {name} has no shape information ")
        sizes[name] = len(array)
        if (first := next(iter(sizes.values()))) != len(array):
            raise invalid(f"Tensor name: {name} has inconsistent batch size: {len(array)} expecting: {first}")
    return [_alone(dict(zip(outputs, row, strict=True))) for row in zip(*listed.values(), strict=True)]


def _alone(named: Mapping[str, Any]) -> Any:
    return next(iter(named.values())) if len(named) == 1 else named


def _listed(name: str, array: Array) -> Any:
    """An array of numbers as it is; an array of bytes as nested lists."""
    if array.dtype == object:
        return np.vectorize(_binary if name.endswith(BYTES) else _text, otypes=[object])(array).tolist()
    if array.dtype.kind not in "fiub":
        raise invalid(f"Failed to write JSON value for tensor type: {array.dtype.name}")
    return array


def _binary(value: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(value).decode()}


def _text(value: bytes) -> str:
    return value.decode(errors="replace")


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Mapping[str, Any]) -> bool:
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _kind(value: Any) -> str:
    names = {dict: "Object", list: "Array", str: "String", bool: str(value), type(None): "Null"}
    return names.get(type(value), "Number")


def _shown(value: Any) -> str:
    """The value for an error text, cut to 200 characters."""
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
