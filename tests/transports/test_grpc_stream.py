"""Chunks without any wire."""

from __future__ import annotations

import pytest

from transports import Limits, grpc_stream
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE
from transports.protobuf_wire import varint


def head(total: int, data: bytes) -> bytes:
    return next(grpc_stream.chunks([data], 2**20)).replace(varint(len(data)), varint(total), 1)


STREAMS = {
    "nothing but a figure": ([head(2**27, b"x")], MalformedMessage, "1 of 134217728 bytes came"),
    "an empty chunk": ([head(9, b"x"), b""], MalformedMessage, "1 of 9 bytes came, and then an empty chunk"),
    "more than the figure": ([head(3, b"long")], MalformedMessage, "3 bytes were announced, 4 came"),
    "a figure above the limit": (
        [head(2**28 + ENVELOPE + 1, b"x")],
        MessageTooLarge,
        f"{2**28 + ENVELOPE + 1} bytes is above the limit of {2**28} bytes",
    ),
    "no chunk": ([b"\xff\xff"], MalformedMessage, "does not end"),
}


@pytest.mark.parametrize("lie", STREAMS)
def test_a_lie_in_a_stream_is_refused(lie: str) -> None:
    stream, kind, text = STREAMS[lie]
    with pytest.raises(kind, match=text):
        grpc_stream.gather(stream, Limits(2**28))


@pytest.mark.parametrize("size", [1, 2, 7, 1024])
@pytest.mark.parametrize("parts", [[], [b""], [b"abc"], [b"a", b"", b"bcdefgh", memoryview(b"ij")], [bytes(5000)]])
def test_chunks_are_gathered_as_they_were(parts: list[bytes], size: int) -> None:
    cut = list(grpc_stream.chunks(parts, size))
    assert grpc_stream.gather(cut, Limits()) == b"".join(parts)
    assert all(len(chunk) <= size + 20 for chunk in cut)
