"""`Message` <-> one `bytes` value (`frame_codec`), as RPyC's brine carries it.

Rules:
  - Brine takes *exact* types. An ndarray, a NumPy scalar, a list or a bytearray silently becomes a reference, and the
    peer fetches its contents by callbacks. So only `bytes` are sent.
  - A reader checks the exact type of a value before it does anything else: an attribute, a comparison or the `repr` of
    a reference would call the peer back (CVE-2024-27758 is this pattern).
  - Brine takes some microseconds for each value of a tuple, so a message is one value.
"""

from __future__ import annotations

from collections.abc import Mapping

from rpyc.core import brine

from transports import frame_codec
from transports.base import Message
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE

ITEMS = 2**17
"""Values that a large packet may have, including nested ones. No message within the limits has so many."""

pack = frame_codec.write


def unpack(value: object) -> Message:
    """The message that a peer packed. Raises `MalformedMessage` for anything but exact `bytes` that hold one."""
    if type(value) is not bytes:
        raise MalformedMessage("a message must be exact bytes, sent by value")
    return frame_codec.read_whole(value)


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
