"""A message as a stream of `Chunk`s: `--option grpc.send=stream` sends chunks; both ends always accept them.

Rules:
  - The first chunk announces the size of the message in bytes. `gather` checks that figure against the limit before it
    reads on, and its memory grows with the bytes that arrive, never with the figure.
  - Only the chunk of an empty message may be empty, and a message ends after exactly the announced number of bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from google.protobuf.message import DecodeError

from transports import splitbench_pb2 as pb
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, Limits


def chunks(message: bytes, size: int) -> Iterator[bytes]:
    """`message` as `Chunk`s of up to `size` bytes each, made one at a time."""
    yield pb.Chunk(total=len(message), data=message[:size]).SerializeToString()
    for place in range(size, len(message), size):
        yield pb.Chunk(data=message[place : place + size]).SerializeToString()


def gather(stream: Iterable[bytes], limits: Limits) -> bytearray:
    """The bytes that arrive as `Chunk`s. Raises `MessageTooLarge`, `MalformedMessage` and the errors of `stream`."""
    arriving = map(_read, stream)
    first = next(arriving, pb.Chunk())
    total, arrived = first.total, bytearray(first.data)
    if total > limits.max_message + ENVELOPE:
        raise MessageTooLarge(f"a message of {total} bytes is above the limit of {limits.max_message} bytes")
    while len(arrived) < total:
        if not (data := next(arriving, pb.Chunk()).data):
            raise MalformedMessage(f"{len(arrived)} of {total} bytes came, and then an empty chunk or none")
        arrived += data
    if len(arrived) > total:
        raise MalformedMessage(f"{total} bytes were announced, {len(arrived)} came")
    return arrived


def _read(data: bytes) -> pb.Chunk:
    try:
        return pb.Chunk.FromString(data)
    except DecodeError as error:
        raise MalformedMessage(f"{len(data)} bytes came that are no chunk: {error}") from None
