"""Arrays in JSON: by orjson, or by `json` for values that orjson cannot write or read (NaN, infinity)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from transports.base import Array

LISTED = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "float32", "float64")
"""The dtypes that a model server reads from JSON (`util/json_tensor.cc`)."""


def parse(data: bytes | bytearray) -> Any:
    """The value in `data`. Raises `ValueError`, and `RecursionError` for lists that are nested too deeply."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # reads NaN and the infinities, and has clear error texts


def write(document: Any, arrays: Iterable[Array]) -> bytes:
    """`document` as JSON; it has `arrays`, or parts of them, in place of lists. Floats are in their shortest form."""
    if all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        return orjson.dumps(document, _contiguous, orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(document, default=_listed, separators=(",", ":")).encode()


def _contiguous(value: Any) -> Any:
    """An array that is not C-contiguous, or has no dimension, in a form that orjson accepts."""
    return np.ascontiguousarray(value) if np.ndim(value) else value.item()


def _listed(value: Any) -> Any:
    """An array or scalar as Python numbers. A float is the shortest decimal that reads back equal in its own type."""
    short = value.dtype.kind == "f" and value.dtype.itemsize < 8
    return (value.astype(str).astype(float) if short else value).tolist()
