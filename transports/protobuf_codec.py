"""`Message` <-> the bytes of `splitbench.proto`, in one of two forms of tensor.

    raw          dtype, shape and the elements' bytes
    tensorproto  tensorflow.TensorProto, byte for byte as `tf.make_tensor_proto` writes it, without TensorFlow

Rules:
  - A reader accepts both forms, and in a TensorProto both `tensor_content` and the `*_val` lists. If a list is shorter
    than its tensor, its last value is repeated; an empty list means zeros.
  - So a few bytes can stand for a large tensor: a list is expanded only up to the limit of a message.
  - `survey` counts the fields of a large message before protobuf makes objects of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from google.protobuf.message import DecodeError

from transports import splitbench_pb2 as pb
from transports.base import DTYPES, Array, Message, Scalar, check_tensor
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import PARTS, Limits
from transports.protobuf_wire import Part, Payloads, survey
from transports.wire import NAMES as DTYPE_NAMES
from transports.wire import exact_scalar, exact_text, incoming, outgoing, unique


def write(message: Message, codec: str = "raw") -> bytes:
    """`message` as bytes, its tensors in the form `codec`. Raises `MalformedMessage` for values that do not fit it."""
    out = pb.Message(method=exact_text("the method", message.method))
    for key, value in message.fields.items():
        plain = exact_scalar(key, value)
        setattr(out.fields[exact_text("a key", key)], SCALAR_FIELDS[type(plain)], plain)
    for name, tensor in message.tensors.items():
        entry = out.tensors.add()
        entry.name = exact_text("a tensor's name", name)
        WRITERS[codec](entry, outgoing(name, tensor))
    return out.SerializeToString()


def read(data: Part, limits: Limits | None = None) -> Message:
    """The message in `data`, with tensors in either form. Raises `MalformedMessage` and `MessageTooLarge`."""
    survey(data, PAYLOADS)
    try:
        came = pb.Message.FromString(data)  # type: ignore[arg-type]  # accepts any buffer
    except DecodeError as error:
        raise MalformedMessage(f"{len(data)} bytes came that are no message: {error}") from None
    if len(came.tensors) > PARTS:
        raise MessageTooLarge(f"a message has {len(came.tensors)} tensors or more, above the limit of {PARTS}")
    tensors = list(came.tensors)
    forms = [tensor.WhichOneof("form") for tensor in tensors]
    if "tensor_proto" in forms:
        _check_size(came, limits or Limits())
    fields = {key: _read_scalar(key, scalar) for key, scalar in came.fields.items()} if came.fields else {}
    return Message(came.method, fields, unique("tensor", map(_read_tensor, tensors, forms)))


SCALAR_FIELDS: Mapping[type, str] = {str: "text", int: "whole", float: "real", bool: "truth"}


def _read_scalar(key: str, scalar: pb.Scalar) -> Scalar:
    kind = scalar.WhichOneof("value")
    if kind is None:
        raise MalformedMessage(f"field {key!r} came without a value")
    value: Scalar = getattr(scalar, kind)
    return value


def _read_tensor(tensor: pb.Tensor, form: str | None) -> tuple[str, Array]:
    if form is None:
        raise MalformedMessage(f"tensor {tensor.name!r} came without a value")
    return tensor.name, READERS[form](tensor)


def _write_raw(tensor: pb.Tensor, array: Array) -> None:
    raw = tensor.raw
    raw.dtype = DTYPE_NAMES[array.dtype]
    raw.shape.extend(array.shape)
    raw.data = array.tobytes()


def _read_raw(tensor: pb.Tensor) -> Array:
    raw = tensor.raw
    return incoming(tensor.name, raw.dtype, tuple(raw.shape), raw.data)


def _write_tensor_proto(tensor: pb.Tensor, array: Array) -> None:
    proto, dtype = tensor.tensor_proto, DTYPE_NAMES[array.dtype]
    proto.dtype = NUMBERS[dtype]
    proto.tensor_shape.SetInParent()
    for extent in array.shape:
        proto.tensor_shape.dim.add(size=extent)
    if array.size > 1 and dtype not in LISTED:
        proto.tensor_content = array.tobytes()
    elif VALUES[dtype][0] == "float8_val":
        proto.float8_val = array.tobytes()
    else:
        field, stored = VALUES[dtype]
        getattr(proto, field).extend(array.ravel().view(stored).tolist())


def read_tensor_proto(name: str, proto: pb.TensorProto) -> Array:
    """The array in `proto`, as `tf.make_ndarray` reads it. Raises `MalformedMessage`."""
    dtype = NAMES.get(proto.dtype)
    if dtype is None or proto.tensor_shape.unknown_rank:
        raise MalformedMessage(f"tensor {name!r}: data type {proto.dtype} or its shape cannot be carried")
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if content := proto.tensor_content:
        return incoming(name, dtype, shape, content)
    return _unfold(name, dtype, shape, proto)


def _unfold(name: str, dtype: str, shape: tuple[int, ...], proto: pb.TensorProto) -> Array:
    """The tensor whose elements are in a `*_val` list of `proto`, which may be shorter than the tensor."""
    values = _listed(name, dtype, proto)
    count = math.prod(shape)
    check_tensor(name, dtype, shape, count * DTYPES[dtype].itemsize)
    if values.size > count:
        raise MalformedMessage(f"tensor {name!r}: {dtype}{list(shape)} has {count} elements, {values.size} came")
    full = np.pad(values, (0, count - values.size), "edge") if values.size else np.zeros(count, values.dtype)
    return incoming(name, dtype, shape, full.tobytes())


def _listed(name: str, dtype: str, proto: pb.TensorProto) -> Array:
    field, stored = VALUES[dtype]
    given = getattr(proto, field)
    if isinstance(given, bytes):
        return np.frombuffer(given, DTYPES[dtype])
    try:
        values: Array = np.array(given, dtype=stored)
    except (OverflowError, ValueError) as error:
        raise MalformedMessage(f"tensor {name!r}: {field} holds no {dtype}: {error}") from None
    if values.nbytes % DTYPES[dtype].itemsize:
        raise MalformedMessage(f"tensor {name!r}: {field} holds half a number")
    return values.view(DTYPES[dtype])


def _check_size(message: pb.Message, limits: Limits) -> None:
    """Check the sizes of `TensorProto`s by their shapes: the lists may be far shorter. Raises `MessageTooLarge`."""
    size = 0
    for proto in (tensor.tensor_proto for tensor in message.tensors if tensor.HasField("tensor_proto")):
        extents = [dim.size for dim in proto.tensor_shape.dim]
        if proto.dtype in NAMES and all(extent >= 0 for extent in extents):
            size += math.prod(extents) * DTYPES[NAMES[proto.dtype]].itemsize
    if size > limits.max_message:
        what = f"the tensors of {message.method!r} take {size} bytes"
        raise MessageTooLarge(f"{what}, above the limit of {limits.max_message} bytes")


PAYLOADS: Payloads = {
    pb.Message.TENSORS_FIELD_NUMBER: {
        pb.Tensor.RAW_FIELD_NUMBER: {pb.Raw.DATA_FIELD_NUMBER: {}},
        pb.Tensor.TENSOR_PROTO_FIELD_NUMBER: {pb.TensorProto.TENSOR_CONTENT_FIELD_NUMBER: {}},
    }
}
"""The fields of a message in which the elements of tensors lie."""

WRITERS: Mapping[str, Callable[[pb.Tensor, Array], None]] = {"raw": _write_raw, "tensorproto": _write_tensor_proto}
"""Codec -> the function that fills in a tensor's form from an array."""

READERS: Mapping[str, Callable[[pb.Tensor], Array]] = {
    "raw": _read_raw,
    "tensor_proto": lambda tensor: read_tensor_proto(tensor.name, tensor.tensor_proto),
}
"""Field of `Tensor.form` -> the function that builds the array from it."""

LISTED = frozenset({"bool", "uint16", "complex64", "complex128"})
"""The dtypes that `tf.make_tensor_proto` always writes as a list. It writes other dtypes as a list only if the tensor
has at most one element."""

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
    "float8_e4m3fn": pb.DT_FLOAT8_E4M3FN,
    "float8_e5m2": pb.DT_FLOAT8_E5M2,
}
"""dtype -> TensorFlow's number for it."""

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
    "float8_e4m3fn": ("float8_val", "uint8"),
    "float8_e5m2": ("float8_val", "uint8"),
}
"""dtype -> the `*_val` list for its values, and the dtype of the values in that list."""
