"""`Message` <-> nested tuples that RPyC's brine carries by value.

    (method, ((key, value), ...), ((name, dtype, shape, bytes), ...))

Rules:
  - Brine takes *exact* types. An ndarray, a NumPy scalar, a list or a bytearray silently becomes a reference, and the
    peer fetches its contents by callbacks. So only what is `dumpable` is sent.
  - A reader checks the exact type of a value before it does anything else: an attribute, a comparison or the `repr` of
    a reference would call the peer back (CVE-2024-27758 is this pattern).
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
"""Values that a large packet may have, including nested ones. No message within the limits has so many."""

Packed = tuple[str, tuple[tuple[str, Scalar], ...], tuple[tuple[str, str, tuple[int, ...], bytes], ...]]


def pack(message: Message) -> Packed:
    """`message` as brine's own types. Raises `MalformedMessage` for what they cannot hold."""
    fields = tuple((exact_text("a key", key), exact_scalar(key, value)) for key, value in message.fields.items())
    tensors = tuple(_pack_tensor(name, value) for name, value in message.tensors.items())
    packed = (exact_text("the method", message.method), fields, tensors)
    if not brine.dumpable(packed):
        raise MalformedMessage(f"{message.method!r} holds what brine cannot carry by value")
    return packed


def _pack_tensor(name: str, value: Array) -> tuple[str, str, tuple[int, ...], bytes]:
    array = outgoing(exact_text("a tensor's name", name), value)
    return name, NAMES[array.dtype], array.shape, array.tobytes()


def unpack(value: object) -> Message:
    """The message that a peer packed. Raises `MalformedMessage` for anything that is not exactly of `pack`'s types."""
    method, fields, tensors = _row("the message", value, str, tuple, tuple)
    pairs = (_row("a field", field, str, None) for field in fields)
    return Message(
        exact_text("the method", method),
        unique("field", ((exact_text("a key", key), exact_scalar(key, scalar)) for key, scalar in pairs)),
        unique("tensor", map(_unpack_tensor, tensors)),
    )


def _unpack_tensor(value: object) -> tuple[str, Array]:
    name, dtype, shape, data = _row("a tensor", value, str, str, tuple, bytes)
    exact_text("a tensor's name", name)
    for extent in shape:
        _require(f"an extent of tensor {name!r}", extent, int)
    return name, incoming(name, dtype, shape, data)


def _row(what: str, value: Any, *kinds: type | None) -> tuple[Any, ...]:
    """`value`, once it is an exact tuple with one value of each exact type in `kinds` (None: looked at later)."""
    _require(what, value, tuple)
    if len(value) != len(kinds):
        raise MalformedMessage(f"{what} has {len(value)} parts, {len(kinds)} were expected")
    for part, kind in zip(value, kinds, strict=True):
        if kind is not None:
            _require(f"a part of {what}", part, kind)
    row: tuple[Any, ...] = value
    return row


def _require(what: str, value: object, kind: type) -> None:
    if type(value) is not kind:
        raise MalformedMessage(f"{what} must be an exact {kind.__name__}, sent by value")


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
    """Bytes between the tag at `place` and the next one."""
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
"""Tag of a value that begins with its size -> how many bytes the size takes."""

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
"""Tag -> bytes that follow it and belong to its value. No bytes follow any other tag."""
