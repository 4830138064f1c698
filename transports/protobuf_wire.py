"""Protobuf's own encoding, as far as the elements of tensors go through it (protobuf.dev/programming-guides/encoding).

Protobuf copies what it writes three times and what it reads twice, and makes an object of some dozens of bytes for
every two bytes that a peer sends. So the elements are written and lifted out here, once, and protobuf gets the rest:
at most `ENVELOPE` bytes, counted before it sees them.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from typing import NamedTuple

from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, PARTS

Part = bytes | bytearray | memoryview
Path = tuple[int, ...]
"""Numbers of nested fields, from the outermost message."""

VARINT, LENGTH = 0, 2
LEAST = 8
"""Bytes as which the smallest field counts: looking at it takes time."""
FIXED = {1: 8, 5: 4}
"""Wire type -> bytes of its value."""


class Field(NamedTuple):
    """One field as it came: its number, all its bytes, and what it holds (`content` of nested bytes, else a number)."""

    number: int
    whole: memoryview
    content: memoryview | None
    value: int


def field(number: int, parts: list[Part]) -> list[Part]:
    """`parts` as one length-delimited field."""
    return [varint(number << 3 | LENGTH) + varint(sum(map(len, parts))), *parts]


def varint(value: int) -> bytes:
    """`value`, at least 0, seven bits to the byte."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def fields(data: memoryview) -> Iterator[Field]:
    """The fields of a message one after the other. Raises `MalformedMessage`."""
    place = 0
    while place < len(data):
        start = place
        key, place = _read_varint(data, place)
        inner, value, kind = place, 0, key & 7
        if kind == LENGTH:
            size, inner = _read_varint(data, place)
            place = inner + size
        elif kind == VARINT:
            value, place = _read_varint(data, place)
        else:
            place += FIXED.get(kind, len(data))
        if place > len(data):
            raise MalformedMessage(f"field {key >> 3} of type {kind} does not fit the {len(data)} bytes that came")
        yield Field(key >> 3, data[start:place], data[inner:place] if kind == LENGTH else None, value)


def _read_varint(data: memoryview, place: int) -> tuple[int, int]:
    """The number at `place`, and where the next byte is."""
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
    raise MalformedMessage(f"a number does not end in the {len(data)} bytes that came")


def lift(data: Part, tensors: int, payloads: Set[Path]) -> tuple[bytes, list[memoryview]]:
    """A message without the fields `payloads`, and for each of its fields `tensors` what was lifted out of it.

    Raises `MalformedMessage`, and `MessageTooLarge` when more than `ENVELOPE` bytes are left.
    """
    return _Lift(tensors, payloads).run(memoryview(data))


class _Lift:
    def __init__(self, tensors: int, payloads: Set[Path]) -> None:
        self._tensors = tensors
        self._payloads = payloads
        self._within = {path[:length] for path in payloads for length in range(1, len(path))}
        self._known = self._within | payloads
        self._left = ENVELOPE

    def run(self, data: memoryview) -> tuple[bytes, list[memoryview]]:
        kept: list[Part] = []
        lifted: list[memoryview] = []
        for item in fields(data):
            found: list[memoryview] = []
            kept += self._keep(item, (), found)
            if item.number == self._tensors and item.content is not None:
                lifted.append(self._only(found))
            if len(lifted) > PARTS:
                raise MessageTooLarge(f"a message has {len(lifted)} tensors or more, above the limit of {PARTS}")
        return b"".join(kept), lifted

    def _keep(self, item: Field, path: Path, found: list[memoryview]) -> list[Part]:
        here = (*path, item.number)
        if item.content is None or here not in self._known:
            self._spend(len(item.whole))
            return [item.whole]
        self._spend(len(item.whole) - len(item.content))
        if here in self._payloads:
            found.append(item.content)
            return []
        return field(item.number, [part for inner in fields(item.content) for part in self._keep(inner, here, found)])

    def _spend(self, count: int) -> None:
        self._left -= max(count, LEAST)
        if self._left < 0:
            raise MessageTooLarge(
                f"names, shapes and fields take more than {ENVELOPE} bytes, above the limit of {ENVELOPE} bytes"
            )

    @staticmethod
    def _only(found: list[memoryview]) -> memoryview:
        if len(found) > 1:
            raise MalformedMessage("a tensor's bytes came twice")
        return found[0] if found else memoryview(b"")
