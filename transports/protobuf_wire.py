"""Checks messages in protobuf's encoding before protobuf parses them (protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, PARTS

Part = bytes | bytearray | memoryview

VARINT, LENGTH = 0, 2
LEAST = 8
"""Bytes that a field counts as at least, since protobuf makes an object of some dozens of bytes of each field."""
FIXED = {1: 8, 5: 4}
"""Wire type -> number of bytes of its value."""
SMALL = ENVELOPE // 4
"""Size in bytes up to which a message cannot have too many fields: each takes two bytes or more, counted as `LEAST`."""

Payloads = Mapping[int, Any]
"""Number of a field -> the `Payloads` of the nested message; empty for a field that holds a tensor's elements."""


def survey(data: Part, payloads: Payloads) -> None:
    """Count the objects that a parser would build from `data`, except for the fields in `payloads`.

    Raises `MalformedMessage`, and `MessageTooLarge` for more than `ENVELOPE` bytes or `PARTS` nested messages.
    """
    if len(data) <= SMALL:
        return
    left, nested = ENVELOPE, 0
    whole = memoryview(data)
    waiting: list[tuple[memoryview, Payloads]] = [(whole, payloads)]
    while waiting:
        message, known = waiting.pop()
        for number, size, content in _fields(message):
            if content is None or number not in known:
                left -= max(size, LEAST)
            else:
                left -= size - len(content)
                if known[number]:
                    waiting.append((content, known[number]))
                    nested += message is whole
            if nested > PARTS:
                raise MessageTooLarge(f"a message has {nested} tensors or more, above the limit of {PARTS}")
            if left < 0:
                what = f"names, shapes and fields take more than {ENVELOPE} bytes"
                raise MessageTooLarge(f"{what}, above the limit of {ENVELOPE} bytes")


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview | None]]:
    """For each field of a message: its number, its size in bytes, and its content if it is length-delimited."""
    place = 0
    while place < len(data):
        start = place
        key, place = _read_varint(data, place)
        inner, kind = place, key & 7
        if kind == LENGTH:
            size, inner = _read_varint(data, place)
            place = inner + size
        elif kind == VARINT:
            _, place = _read_varint(data, place)
        else:
            place += FIXED.get(kind, len(data))
        if place > len(data):
            raise MalformedMessage(f"field {key >> 3} of type {kind} does not fit the {len(data)} bytes that came")
        yield key >> 3, place - start, data[inner:place] if kind == LENGTH else None


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """The varint at `place`, and the place after it."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise MalformedMessage(f"a number does not end in the {len(data)} bytes that came")
