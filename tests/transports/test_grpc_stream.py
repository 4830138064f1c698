"""Chunks without any wire."""

from __future__ import annotations

import pytest

from transports import Limits, grpc_stream
from transports import splitbench_pb2 as pb
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE


def head(total: int, data: bytes) -> bytes:
    return pb.Chunk(total=total, data=data).SerializeToString()


STREAMS = {
    "nothing but a figure": ([head(2**27, b"x")], MalformedMessage, "1 of 134217728 bytes came"),
    "an empty chunk": ([head(9, b"x"), b""], MalformedMessage, "1 of 9 bytes came, and then an empty chunk"),
    "more than the figure": ([head(3, b"long")], MalformedMessage, "3 bytes were announced, 4 came"),
    "a figure above the limit": (
        [head(2**28 + ENVELOPE + 1, b"x")],
        MessageTooLarge,
        f"{2**28 + ENVELOPE + 1} bytes is above the limit of {2**28} bytes",
    ),
    "no chunk": ([b"\xff\xff"], MalformedMessage, "are no chunk"),
}


@pytest.mark.parametrize("lie", STREAMS)
def test_a_lie_in_a_stream_is_refused(lie: str) -> None:
    stream, kind, text = STREAMS[lie]
    with pytest.raises(kind, match=text):
        grpc_stream.gather(stream, Limits(2**28))


@pytest.mark.parametrize("size", [1, 2, 7, 1024])
@pytest.mark.parametrize("message", [b"", b"abc", b"abcdefghij", bytes(5000)])
def test_chunks_are_gathered_as_they_were(message: bytes, size: int) -> None:
    cut = list(grpc_stream.chunks(message, size))
    assert grpc_stream.gather(cut, Limits()) == message
    assert all(len(chunk) <= size + 20 for chunk in cut)
