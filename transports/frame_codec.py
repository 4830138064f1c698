"""`Message` <-> a description in MessagePack and the bytes of its tensors.

    head          magic, bytes of the description, bytes of the tensors          struct `HEAD`
    description   [method, [[key, value], ...], [[name, dtype, shape], ...]]    MessagePack
    tensors       little-endian elements in C order, each tensor at a multiple of `ALIGN` bytes

Rules:
  - msgspec checks every type while it reads a description, so a peer's bytes cannot make it build any other object.
  - A reader gets the tensors in one buffer, and its arrays are read-only views of that buffer.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Annotated

import msgspec
import numpy as np

from transports.base import DTYPES, Array, Message, Scalar
from transports.errors import MalformedMessage
from transports.limits import PARTS
from transports.wire import NAMES, exact_scalar, exact_text, incoming, outgoing, unique

HEAD = struct.Struct("<4sIQ")
MAGIC = b"spb1"
ALIGN = 64
"""Alignment of tensors in bytes, a multiple of the size of every dtype. TensorFlow copies tensors that have a smaller
one."""
PAD = bytes(ALIGN)
SMALL = 2**14
"""Largest size in bytes for which a copy costs less than one more buffer."""
MOST_PADDING = PARTS * ALIGN
"""Most bytes of padding between the tensors of a message."""
Buffer = bytes | bytearray | memoryview


class Description(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The description of a message, which precedes the tensors."""

    method: str
    fields: Annotated[list[tuple[str, str | int | float | bool]], msgspec.Meta(max_length=PARTS)]
    tensors: Annotated[
        list[tuple[str, str, Annotated[tuple[int, ...], msgspec.Meta(max_length=32)]]], msgspec.Meta(max_length=PARTS)
    ]


TEXTS, PLAIN = frozenset({str}), frozenset({str, float, bool})
"""The types of names, and of values of fields, that are written without a further check."""
INT64 = range(-(2**63), 2**63)
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Description).decode


def describe(message: Message) -> tuple[bytes, list[Array]]:
    """The description of `message`, and its tensors as C-contiguous native arrays. Raises `MalformedMessage`."""
    described: list[tuple[str, str, tuple[int, ...]]] = []
    arrays: list[Array] = []
    for name, tensor in message.tensors.items():
        array = outgoing(name, tensor)
        described.append((name, NAMES[array.dtype], array.shape))
        arrays.append(array)
    words, fields = (message.method, *message.fields, *message.tensors), message.fields
    plain = all(type(value) in PLAIN or (type(value) is int and value in INT64) for value in fields.values())
    if plain and TEXTS.issuperset(map(type, words)):
        try:
            return _encode((message.method, list(fields.items()), described)), arrays
        except UnicodeEncodeError:
            pass  # one of the checks below names it
    for what, names in (("the method", (message.method,)), ("a key", fields), ("a tensor's name", message.tensors)):
        for name in names:
            exact_text(what, name)
    exact = [(key, exact_scalar(key, value)) for key, value in fields.items()]
    return _encode((message.method, exact, described)), arrays


def buffer_of(array: Array) -> Buffer:
    """The bytes of the C-contiguous `array`: a copy if it costs less than a view."""
    if array.nbytes <= SMALL:
        return array.tobytes()
    plain = array if array.dtype.isbuiltin == 1 else array.view(np.uint8)  # Python knows no bfloat16
    return plain.data.cast("B")


def parts(message: Message) -> list[Buffer]:
    """`message` as buffers to send one after the other: head and description, then tensors and padding.

    Raises `MalformedMessage` for values that no codec can write.
    """
    description, arrays = describe(message)
    buffers, size = padded(arrays)
    head = HEAD.pack(MAGIC, len(description), size)
    return [head + description, *buffers] if size > SMALL else [b"".join((head, description, *buffers))]


def padded(arrays: Sequence[Array]) -> tuple[list[Buffer], int]:
    """The buffers of `arrays`, padded so that each starts at a multiple of `ALIGN` bytes, and their total size."""
    buffers: list[Buffer] = []
    size = 0
    for array in arrays:
        if gap := -size % ALIGN:
            buffers.append(PAD[:gap])
            size += gap
        buffers.append(buffer_of(array))
        size += array.nbytes
    return buffers, size


def write(message: Message) -> bytes:
    """`message` in one piece. Raises `MalformedMessage`."""
    return b"".join(parts(message))


def read_whole(data: Buffer) -> Message:
    """The message in bytes that `write` made. Raises `MalformedMessage`."""
    if len(data) < HEAD.size:
        raise MalformedMessage(f"{len(data)} bytes came that are no message")
    magic, described, size = HEAD.unpack_from(data)
    end = HEAD.size + described
    view = memoryview(data)
    if magic != MAGIC or end + size != len(view):
        raise MalformedMessage(f"{bytes(view[: HEAD.size])!r} does not begin the {len(view)} bytes that came")
    return read((view[HEAD.size : end], view[end:]))


def read(frame: tuple[Buffer, Buffer]) -> Message:
    """The message of a description and its tensors' bytes. Raises `MalformedMessage`."""
    came, view = _described(frame[0]), memoryview(frame[1]).toreadonly()
    tensors: dict[str, Array] = {}
    place = 0
    for name, dtype, shape in came.tensors:
        place += -place % ALIGN
        end = place + (math.prod(shape) * DTYPES[dtype].itemsize if dtype in DTYPES else 0)
        tensors[name] = incoming(name, dtype, shape, view[place:end])
        place = end
    if place != len(view):
        raise MalformedMessage(f"{len(view)} bytes of tensors came, and {place} were described")
    return _message(came, tensors)


def read_parts(description: Buffer, buffers: Sequence[Buffer]) -> Message:
    """The message of a description and one buffer for each tensor. Raises `MalformedMessage`."""
    came = _described(description)
    if len(buffers) != len(came.tensors):
        raise MalformedMessage(f"{len(buffers)} tensors came, and {len(came.tensors)} were described")
    views = [memoryview(buffer).toreadonly() for buffer in buffers]
    pairs = zip(came.tensors, views, strict=True)
    return _message(came, {name: incoming(name, dtype, shape, view) for (name, dtype, shape), view in pairs})


def _described(description: Buffer) -> Description:
    try:
        return _decode(description)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise MalformedMessage(f"{len(description)} bytes came that describe no message: {error}") from None


def _message(came: Description, tensors: dict[str, Array]) -> Message:
    """The message with these `tensors`. Raises `MalformedMessage` for a repeated name, and for an unusable field."""
    if len(tensors) < len(came.tensors):
        unique("tensor", ((name, None) for name, _, _ in came.tensors))  # raises, and names the tensor
    if not came.fields:
        return Message(came.method, {}, tensors)
    fields: dict[str, Scalar] = dict(came.fields)
    if len(fields) < len(came.fields):
        unique("field", came.fields)
    for key, value in came.fields:
        if type(value) is int:
            exact_scalar(key, value)
    return Message(came.method, fields, tensors)
