"""Arrays in JSON, as compact and as fast as is fair: by orjson, and by `json` where orjson has no word for a value."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
import orjson

from transports.base import Array

LISTED = ("bool", "int8", "int16", "int32", "int64", "uint8", "uint32", "uint64", "float32", "float64")
"""dtypes that a model server reads from JSON (`util/json_tensor.cc`)."""


def parse(data: bytes | bytearray) -> Any:
    """What `data` says. Raises `ValueError`, and `RecursionError` for lists that are too deep."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)  # which knows NaN and the infinities, and says what is wrong with what is wrong


def write(document: Any, arrays: Iterable[Array]) -> bytes:
    """`document`, in which `arrays` (and parts of them) stand where JSON has lists; each float as short as means it."""
    if all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
        return orjson.dumps(document, _contiguous, orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(document, default=_listed, separators=(",", ":")).encode()


def _contiguous(value: Any) -> Any:
    """What orjson does not take as it is: an array that is not C-contiguous, or has no extent."""
    return np.ascontiguousarray(value) if np.ndim(value) else value.item()


def _listed(value: Any) -> Any:
    """An array or a scalar as numbers of Python: a float by the shortest decimal that means it in its own type."""
    short = value.dtype.kind == "f" and value.dtype.itemsize < 8
    return (value.astype(str).astype(float) if short else value).tolist()
