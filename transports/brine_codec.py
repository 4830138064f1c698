"""`Message` <-> nested tuples that RPyC's brine carries by value.

    (method, ((key, value), ...), ((name, dtype, shape, bytes), ...))

Rules:
  - Brine sends only *exact* built-in types by value. An ndarray, a NumPy scalar, a list or a bytearray silently becomes
    a reference, and the peer fetches its contents by callbacks. So `pack` makes only exact types.
  - A reader checks the exact type of a value before it does anything else: to read an attribute of a reference, to
    compare it or to take its `repr` would call the peer back (CVE-2024-27758 is this pattern).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rpyc.core import brine

from transports.base import Array, Message, Scalar
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE
from transports.wire import NAMES, exact_scalar, exact_text, incoming, outgoing, unique

ITEMS = 2**17
"""Values that a large packet may contain, including nested values. No message within the limits contains so many."""

Packed = tuple[str, tuple[tuple[str, Scalar], ...], tuple[tuple[str, str, tuple[int, ...], bytes], ...]]


def pack(message: Message) -> Packed:
    """`message` in types that `brine.dumpable` accepts. Raises `MalformedMessage` for values of other types."""
    fields = [(exact_text("a key", key), exact_scalar(key, value)) for key, value in message.fields.items()]
    tensors = [_pack_tensor(name, value) for name, value in message.tensors.items()]
    return exact_text("the method", message.method), tuple(fields), tuple(tensors)


def _pack_tensor(name: str, value: Array) -> tuple[str, str, tuple[int, ...], bytes]:
    array = outgoing(exact_text("a tensor's name", name), value)
    return name, NAMES[array.dtype], array.shape, array.tobytes()


def unpack(value: object) -> Message:
    """The message that a peer packed. Raises `MalformedMessage` unless all types are exactly the types of `pack`."""
    method, fields, tensors = _row("the message", value, (str, tuple, tuple))
    return Message(
        exact_text("the method", method),
        unique("field", map(_unpack_field, fields)) if fields else {},
        unique("tensor", map(_unpack_tensor, tensors)),
    )


def _unpack_field(value: Any) -> tuple[str, Scalar]:
    if type(value) is not tuple or len(value) != 2:
        raise MalformedMessage("a field must be an exact tuple of a key and a value, sent by value")
    key = exact_text("a key", value[0])
    return key, exact_scalar(key, value[1])


def _unpack_tensor(value: object) -> tuple[str, Array]:
    name, dtype, shape, data = _row("a tensor", value, (str, str, tuple, bytes))
    return name, incoming(exact_text("a tensor's name", name), dtype, shape, data)


def _row(what: str, value: Any, kinds: tuple[type, ...]) -> tuple[Any, ...]:
    """`value`, after checking that it is exactly a tuple, with items of exactly the types `kinds`, in this order."""
    if type(value) is tuple and tuple(map(type, value)) == kinds:
        row: tuple[Any, ...] = value
        return row
    raise MalformedMessage(f"{what} must be an exact tuple of {', '.join(kind.__name__ for kind in kinds)}, by value")


def survey(packet: bytes | memoryview) -> None:
    """Count the values in `packet` before brine builds them: one byte can become an object of eight bytes or more.

    A packet of up to `ENVELOPE` bytes is not counted, since it cannot hold much. Raises `MessageTooLarge` for more than
    `ITEMS` values.
    """
    place = items = 0
    while place < len(packet) and len(packet) > ENVELOPE:
        place += 1 + _skip(packet, place)
        items += 1
        if items > ITEMS:
            raise MessageTooLarge(f"a packet has {items} values or more, above the limit of {ITEMS}")


def _skip(packet: bytes | memoryview, place: int) -> int:
    """Number of bytes between the tag at `place` and the next tag."""
    tag = bytes(packet[place : place + 1])
    if tag in SIZED:
        width = SIZED[tag]
        return width + int.from_bytes(packet[place + 1 : place + 1 + width], "big")
    return SKIPS.get(tag, 0)


SIZED: Mapping[bytes, int] = {
    brine.TAG_STR_L1: 1,
    brine.TAG_INT_L1: 1,
    brine.TAG_STR_L4: 4,
    brine.TAG_INT_L4: 4,
}
"""Tag of a value that begins with its size -> number of bytes of that size field."""

SKIPS: Mapping[bytes, int] = {
    brine.TAG_STR1: 1,
    brine.TAG_STR2: 2,
    brine.TAG_STR3: 3,
    brine.TAG_STR4: 4,
    brine.TAG_TUP_L1: 1,
    brine.TAG_TUP_L4: 4,
    brine.TAG_FLOAT: 8,
    brine.TAG_COMPLEX: 16,
}
"""Tag -> number of bytes after the tag that belong to its value; 0 for a tag that is not listed."""
