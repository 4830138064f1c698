"""`Message` <-> the bytes of `splitbench.proto`, in one of two forms of tensor.

    raw          dtype, shape and the elements' bytes
    tensorproto  tensorflow.TensorProto, byte for byte, without TensorFlow

Rules:
  - Writing puts the elements into `tensor_content`, always. Reading also takes the `*_val` lists that TensorFlow itself
    writes for tensors of few elements, where a short list repeats its last value and an empty one means zeros.
  - Such a list lets few bytes stand for many: it is unfolded only up to the limit of a message.
  - The elements of an array are copied once, into the bytes that are sent, and once out of those that came. So the
    fields that lead to them go through `protobuf_wire`; all else is left to protobuf, which would copy them three times
    more: 0.3 MB take 0.06 ms instead of 0.9 ms in a process whose heap has not grown yet.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np
from google.protobuf.message import DecodeError

from transports import splitbench_pb2 as pb
from transports.base import DTYPES, Array, Message, Scalar, check_tensor
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import Limits
from transports.protobuf_wire import Part, field, lift
from transports.wire import exact_scalar, exact_text, incoming, outgoing, unique


def write(message: Message, codec: str = "raw") -> bytes:
    """`message` with its tensors in the form `codec`. Raises `MalformedMessage` for what the form cannot hold."""
    return b"".join(parts(message, codec))


def parts(message: Message, codec: str = "raw") -> list[Part]:
    """The bytes of `write` in pieces, those of the arrays not yet copied. Raises `MalformedMessage`."""
    out = pb.Message(method=exact_text("the method", message.method))
    for key, value in message.fields.items():
        plain = exact_scalar(key, value)
        setattr(out.fields[exact_text("a key", key)], SCALAR_FIELDS[type(plain)], plain)
    pieces: list[Part] = [out.SerializeToString()]
    for name, tensor in message.tensors.items():
        array = outgoing(exact_text("a tensor's name", name), tensor)
        form = WRITERS[codec](array, array.reshape(-1).view(np.uint8).data)
        pieces += field(TENSORS, [pb.Tensor(name=name).SerializeToString(), *form])
    return pieces


def read(data: Part, limits: Limits | None = None) -> Message:
    """The message in `data`, whichever form its tensors have. Raises `MalformedMessage` and `MessageTooLarge`."""
    rest, payloads = lift(data, TENSORS, PAYLOADS)
    try:
        came = pb.Message.FromString(rest)
    except DecodeError as error:
        raise MalformedMessage(f"{len(data)} bytes came that are no message: {error}") from None
    tensors = list(zip(came.tensors, payloads, strict=True))
    _check_unfolded(came.method, tensors, limits or Limits())
    fields = {key: _read_scalar(key, scalar) for key, scalar in came.fields.items()}
    return Message(came.method, fields, unique("tensor", (_read_tensor(*tensor) for tensor in tensors)))


SCALAR_FIELDS: Mapping[type, str] = {str: "text", int: "whole", float: "real", bool: "truth"}


def _read_scalar(key: str, scalar: pb.Scalar) -> Scalar:
    kind = scalar.WhichOneof("value")
    if kind is None:
        raise MalformedMessage(f"field {key!r} came without a value")
    value: Scalar = getattr(scalar, kind)
    return value


def _read_tensor(tensor: pb.Tensor, payload: memoryview) -> tuple[str, Array]:
    form = tensor.WhichOneof("form")
    if form is None:
        raise MalformedMessage(f"tensor {tensor.name!r} came without a value")
    return tensor.name, READERS[form](tensor, bytes(payload))  # bytes begin where NumPy wants an array to begin


def _write_raw(array: Array, data: Part) -> list[Part]:
    raw = pb.Raw(dtype=array.dtype.name, shape=array.shape).SerializeToString()
    return field(pb.Tensor.RAW_FIELD_NUMBER, [raw, *field(pb.Raw.DATA_FIELD_NUMBER, [data])])


def _read_raw(tensor: pb.Tensor, payload: bytes) -> Array:
    return incoming(tensor.name, tensor.raw.dtype, tuple(tensor.raw.shape), payload)


def _write_tensor_proto(array: Array, data: Part) -> list[Part]:
    dims = [pb.TensorShapeProto.Dim(size=extent) for extent in array.shape]
    proto = pb.TensorProto(dtype=NUMBERS[array.dtype.name], tensor_shape=pb.TensorShapeProto(dim=dims))
    content = field(pb.TensorProto.TENSOR_CONTENT_FIELD_NUMBER, [data])
    return field(pb.Tensor.TENSOR_PROTO_FIELD_NUMBER, [proto.SerializeToString(), *content])


def read_tensor_proto(name: str, proto: pb.TensorProto, content: bytes = b"") -> Array:
    """The array that `proto` stands for, as `tf.make_ndarray` reads it. Raises `MalformedMessage`.

    `content` is its `tensor_content`, where that was lifted out of it.
    """
    dtype = NAMES.get(proto.dtype)
    if dtype is None or proto.tensor_shape.unknown_rank:
        raise MalformedMessage(f"tensor {name!r}: data type {proto.dtype} or its shape is none that is carried")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if content := content or proto.tensor_content:
        return incoming(name, dtype, shape, content)
    return _unfold(name, dtype, shape, proto)


def _unfold(name: str, dtype: str, shape: tuple[int, ...], proto: pb.TensorProto) -> Array:
    """The tensor whose values are in a `*_val` list."""
    values = _listed(name, dtype, proto)
    count = math.prod(shape)
    check_tensor(name, dtype, shape, count * DTYPES[dtype].itemsize)
    if values.size > count:
        raise MalformedMessage(f"tensor {name!r}: {dtype}{list(shape)} has {count} elements, {values.size} came")
    full = np.pad(values, (0, count - values.size), "edge") if values.size else np.zeros(count, values.dtype)
    return incoming(name, dtype, shape, full.tobytes())


def _listed(name: str, dtype: str, proto: pb.TensorProto) -> Array:
    field, stored = VALUES[dtype]
    try:
        values: Array = np.array(getattr(proto, field), dtype=stored)
    except (OverflowError, ValueError) as error:
        raise MalformedMessage(f"tensor {name!r}: {field} holds no {dtype}: {error}") from None
    if values.nbytes % DTYPES[dtype].itemsize:
        raise MalformedMessage(f"tensor {name!r}: {field} holds half a number")
    return values.view(DTYPES[dtype])


def _check_unfolded(method: str, tensors: Iterable[tuple[pb.Tensor, memoryview]], limits: Limits) -> None:
    size = sum(_unfolded(tensor) for tensor, payload in tensors if not payload)
    if size > limits.max_message:
        raise MessageTooLarge(f"the tensors of {method!r} unfold to {size} bytes, above {limits.max_message} bytes")


def _unfolded(tensor: pb.Tensor) -> int:
    """Bytes that a tensor takes once its list is unfolded; 0 for one that has none."""
    proto = tensor.tensor_proto
    extents = [dim.size for dim in proto.tensor_shape.dim]
    if proto.dtype not in NAMES or any(extent < 0 for extent in extents):
        return 0
    return math.prod(extents) * DTYPES[NAMES[proto.dtype]].itemsize if tensor.HasField("tensor_proto") else 0


TENSORS = pb.Message.TENSORS_FIELD_NUMBER
PAYLOADS = frozenset(
    {
        (TENSORS, pb.Tensor.RAW_FIELD_NUMBER, pb.Raw.DATA_FIELD_NUMBER),
        (TENSORS, pb.Tensor.TENSOR_PROTO_FIELD_NUMBER, pb.TensorProto.TENSOR_CONTENT_FIELD_NUMBER),
    }
)
"""Where in a message the elements of tensors are."""

WRITERS: Mapping[str, Callable[[Array, Part], list[Part]]] = {"raw": _write_raw, "tensorproto": _write_tensor_proto}
"""Codec -> what writes the form of a tensor from an array and its bytes."""

READERS: Mapping[str, Callable[[pb.Tensor, bytes], Array]] = {
    "raw": _read_raw,
    "tensor_proto": lambda tensor, payload: read_tensor_proto(tensor.name, tensor.tensor_proto, payload),
}
"""Field of `Tensor.form` -> what builds the array from it and the bytes that were lifted out of it."""

NUMBERS: Mapping[str, pb.DataType] = {
    "bool": pb.DT_BOOL,
    "int8": pb.DT_INT8,
    "int16": pb.DT_INT16,
    "int32": pb.DT_INT32,
    "int64": pb.DT_INT64,
    "uint8": pb.DT_UINT8,
    "uint16": pb.DT_UINT16,
    "uint32": pb.DT_UINT32,
    "uint64": pb.DT_UINT64,
    "float16": pb.DT_HALF,
    "bfloat16": pb.DT_BFLOAT16,
    "float32": pb.DT_FLOAT,
    "float64": pb.DT_DOUBLE,
    "complex64": pb.DT_COMPLEX64,
    "complex128": pb.DT_COMPLEX128,
}
"""dtype -> TensorFlow's number of it."""

NAMES: Mapping[int, str] = {number: name for name, number in NUMBERS.items()}

VALUES: Mapping[str, tuple[str, str]] = {
    "bool": ("bool_val", "bool"),
    **{name: ("int_val", name) for name in ("int8", "int16", "int32", "uint8", "uint16")},
    "int64": ("int64_val", "int64"),
    "uint32": ("uint32_val", "uint32"),
    "uint64": ("uint64_val", "uint64"),
    "float16": ("half_val", "uint16"),
    "bfloat16": ("half_val", "uint16"),
    "float32": ("float_val", "float32"),
    "float64": ("double_val", "float64"),
    "complex64": ("scomplex_val", "float32"),
    "complex128": ("dcomplex_val", "float64"),
}
"""dtype -> the list that holds its values, and the dtype under which the list holds them."""
