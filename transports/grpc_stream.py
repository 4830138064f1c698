"""A message as a stream of chunks: what `--option grpc.send=stream` sends, and what both ends take.

Rules:
  - The first chunk says how many bytes come in all. That figure is checked against the limit before anything else is
    read, and memory grows with what has arrived, never with what was announced.
  - No chunk but that of an empty message is empty, and a message ends where it said that it would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from transports import splitbench_pb2 as pb
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, Limits
from transports.protobuf_wire import Part, field, fields, varint

TOTAL, DATA = pb.Chunk.TOTAL_FIELD_NUMBER, pb.Chunk.DATA_FIELD_NUMBER


def chunks(parts: list[Part], size: int) -> Iterator[bytes]:
    """`parts` as `Chunk`s of up to `size` bytes each, made one at a time, so that no copy of the whole is."""
    total = sum(map(len, parts))
    head = varint(TOTAL << 3) + varint(total)
    if not total:
        yield head
    for pieces in _cut(parts, size):
        yield head + b"".join(field(DATA, pieces))
        head = b""


def _cut(parts: list[Part], size: int) -> Iterator[list[Part]]:
    """`parts` regrouped into groups of `size` bytes; the last may be shorter."""
    group: list[Part] = []
    room = size
    for whole in parts:
        part = memoryview(whole)
        while part:
            group.append(part[:room])
            part = part[room:]
            room -= len(group[-1])
            if not room:
                yield group
                group, room = [], size
    if group:
        yield group


def gather(stream: Iterable[bytes], limits: Limits) -> bytearray:
    """The bytes that arrive as `Chunk`s. Raises `MessageTooLarge` and `MalformedMessage`, and what `stream` raises."""
    arrived = bytearray()
    arriving = map(_open, stream)
    total, data = next(arriving, (0, memoryview(b"")))
    if total > limits.max_message + ENVELOPE:
        raise MessageTooLarge(f"a message of {total} bytes is above the limit of {limits.max_message} bytes")
    arrived += data
    while len(arrived) < total:
        _, data = next(arriving, (0, memoryview(b"")))
        if not data:
            raise MalformedMessage(f"{len(arrived)} of {total} bytes came, and then an empty chunk or none")
        arrived += data
    if len(arrived) > total:
        raise MalformedMessage(f"{total} bytes were announced, {len(arrived)} came")
    return arrived


def _open(chunk: bytes) -> tuple[int, memoryview]:
    """What a chunk says of the whole message, and its piece of it."""
    found = {item.number: item for item in fields(memoryview(chunk))}
    total = found[TOTAL].value if TOTAL in found else 0
    content = found[DATA].content if DATA in found else None
    return total, memoryview(b"") if content is None else content
