"""Arrays as `tensorflow.TensorProto`, in both of its forms. Imports no TensorFlow.

    tensor_content   the bytes of the elements: clients write this form
    *_val            a list of values: TensorFlow Serving answers in this form (`Tensor::AsProtoField`)

Protobuf also encodes a packed list of floats as the bytes of its elements, so this module writes and reads it as bytes.
To convert it value by value in Python would take milliseconds for the 0.3 MB of a cut, and slow the measured server
down.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from transports.base import Array
from transports.errors import MalformedMessage, MessageTooLarge
from transports.protobuf_codec import NAMES, NUMBERS, VALUES, read_tensor_proto
from transports.wire import incoming, outgoing

LIMIT = 2**31 - 1
"""INT32_MAX: bytes of the largest message that TensorFlow Serving accepts and protobuf can write."""
STRING = 7
"""The number of the data type DT_STRING."""
CONTENT = 4
"""Number of the field `tensor_content`."""
PACKED: Mapping[str, int] = {"float32": 5, "float64": 6, "complex64": 9, "bool": 11, "complex128": 12}
"""dtype -> number of the field whose packed values have the same bytes as the elements of an array."""


def encode_into(proto: Any, array: Array, *, content: bool) -> None:
    """Write `array` into the empty `proto`: as `tensor_content`, or as a list of values.

    Byte strings (dtype object) are always a list. Raises `MalformedMessage` for a dtype that the protocol lacks.
    """
    for extent in array.shape:
        proto.tensor_shape.dim.add().size = extent
    if array.dtype == object:
        proto.dtype = STRING
        proto.string_val.extend(array.ravel().tolist())
        return
    array = outgoing("tensor", array)
    proto.dtype = NUMBERS[array.dtype.name]
    if content or array.dtype.name in PACKED:
        number = CONTENT if content else PACKED[array.dtype.name]
        proto.MergeFromString(_field_head(number, array.nbytes) + array.tobytes())
    else:
        name, stored = VALUES[array.dtype.name]
        getattr(proto, name).extend(array.ravel().view(stored).tolist())


def _field_head(number: int, size: int) -> bytes:
    """The bytes before the `size` bytes of a length-delimited field (wire type 2): two varints."""
    out = bytearray()
    for value in (number << 3 | 2, size):
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)
    return bytes(out)


def decode(name: str, proto: Any) -> Array:
    """The array in `proto`, read-only. Raises `MalformedMessage`, and `MessageTooLarge` above `LIMIT` bytes."""
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    _check_size(name, shape, proto)
    if proto.dtype == STRING:
        return _strings(name, shape, list(proto.string_val))
    data = _packed(proto)
    if data is not None:
        return incoming(name, NAMES[proto.dtype], shape, data)
    return read_tensor_proto(name, proto)


def _check_size(name: str, shape: tuple[int, ...], proto: Any) -> None:
    """Refuse impossible sizes. A list may be shorter than its tensor, so a few bytes can describe a huge one."""
    if any(extent < 0 for extent in shape) or proto.tensor_shape.unknown_rank:
        raise MalformedMessage(f"tensor {name!r}: {shape} is no shape")
    itemsize = np.dtype(VALUES[NAMES[proto.dtype]][1]).itemsize if proto.dtype in NAMES else 1
    if math.prod(shape) * itemsize > LIMIT:
        raise MessageTooLarge(f"tensor {name!r}: {shape} takes more than {LIMIT} bytes")


def _strings(name: str, shape: tuple[int, ...], values: list[bytes]) -> Array:
    count = math.prod(shape)
    if len(values) > count:
        raise MalformedMessage(f"tensor {name!r}: {shape} has {count} elements, and {len(values)} were sent")
    values += [values[-1] if values else b""] * (count - len(values))
    array = np.empty(count, object)
    array[:] = values
    return array.reshape(shape)


def _packed(proto: Any) -> bytes | None:
    """The bytes of a complete list of values, cut out of the serialised message; None if there is no such list."""
    dtype = NAMES.get(proto.dtype, "")
    if dtype not in PACKED or proto.tensor_content:
        return None
    name, stored = VALUES[dtype]
    nbytes = len(getattr(proto, name)) * np.dtype(stored).itemsize
    if not nbytes or nbytes != math.prod(dim.size for dim in proto.tensor_shape.dim) * np.dtype(dtype).itemsize:
        return None
    # The list is the last field, since all other fields have smaller numbers, unless the peer sent unknown fields.
    data: bytes = proto.SerializeToString()
    start = len(data) - nbytes
    return data[start:] if data.endswith(_field_head(PACKED[dtype], nbytes), 0, start) else None
