"""The checks that every codec makes when it writes a message and when it reads one.

Rules:
  - Writing: a field is an exact `str`, `int` (of 64 bits), `float` or `bool`; a NumPy scalar becomes a Python scalar.
  - Writing: a tensor becomes C-contiguous with native byte order. A dtype outside `DTYPES` is refused, never pickled.
  - Reading: no array is built before `check_tensor` has passed; arrays are read-only views of the received bytes.
  - Elements are little-endian, as on every machine that TensorFlow supports.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np

from transports.base import DTYPES, Array, Scalar, check_tensor
from transports.errors import MalformedMessage

SCALARS = (str, int, float, bool)
NAMES: Mapping[np.dtype[np.generic], str] = {dtype: name for name, dtype in DTYPES.items()}
"""dtype -> `dtype.name`, since NumPy takes a microsecond to make the name."""
Value = TypeVar("Value")


def exact_text(what: str, value: object) -> str:
    """`value`, if it is a `str` that UTF-8 can encode. Otherwise raises `MalformedMessage`."""
    if type(value) is not str:
        raise MalformedMessage(f"{what} must be a str, and is a {type(value).__name__}")
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedMessage(f"{what} holds characters that UTF-8 cannot: {value!r}") from None
    return value


def exact_scalar(key: str, value: object) -> Scalar:
    """The field `key` as an exact Python scalar. Raises `MalformedMessage` for another type or an int beyond int64."""
    kind = type(value)
    if kind is bool or kind is float:
        return value  # type: ignore[return-value]
    plain = value.item() if isinstance(value, np.generic) else value
    if type(plain) is str:
        return exact_text(f"field {key!r}", plain)
    if type(plain) is int and not -(2**63) <= plain < 2**63:
        raise MalformedMessage(f"field {key!r} does not fit 64 bits")
    if isinstance(plain, (int, float)) and type(plain) in SCALARS:
        return plain
    raise MalformedMessage(f"field {key!r} must be a str, int, float or bool, and is a {type(plain).__name__}")


def outgoing(name: str, value: Array) -> Array:
    """The tensor `name` as a C-contiguous native array, copied only if necessary. Raises `MalformedMessage`."""
    if type(value) is np.ndarray and value.dtype in NAMES and value.flags.c_contiguous:
        return value
    if value.dtype.name not in DTYPES:
        raise MalformedMessage(f"tensor {name!r}: dtype {value.dtype.name!r} is not one of {', '.join(DTYPES)}")
    return np.asarray(value, dtype=DTYPES[value.dtype.name], order="C")


def incoming(name: str, dtype: str, shape: tuple[int, ...], data: bytes | memoryview) -> Array:
    """The tensor that a peer described, as a view of the read-only `data`. Raises `MalformedMessage`."""
    kind = check_tensor(name, dtype, shape, len(data))
    try:
        array: Array = np.ndarray(shape, kind, buffer=data)
    except ValueError as error:  # there are no elements, but NumPy cannot index such extents
        raise MalformedMessage(f"tensor {name!r}: {shape} is no shape: {error}") from None
    if dtype == "bool" and array.size and array.view(np.uint8).max() > 1:
        raise MalformedMessage(f"tensor {name!r}: a bool must be 0 or 1")
    return array


def unique(what: str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """`pairs` as a dictionary. Raises `MalformedMessage` if a name occurs twice."""
    named: dict[str, Value] = {}
    for name, value in pairs:
        if name in named:
            raise MalformedMessage(f"{what} {name!r} came twice")
        named[name] = value
    return named
