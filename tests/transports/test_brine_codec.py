"""Brine: only exact bytes are read, and a remote reference is refused without a call to the peer."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpyc.core.netref import BaseNetref

from tests.transports.test_codecs import scalars, text
from transports import Message, brine_codec, frame_codec
from transports.base import DTYPES
from transports.errors import MalformedMessage


def framed(description: object, data: bytes = b"") -> bytes:
    """The bytes of a message with any `description`, and `data` for its tensors."""
    described = msgspec.msgpack.encode(description)
    return frame_codec.HEAD.pack(frame_codec.MAGIC, len(described), len(data)) + described + data


anything = st.recursive(
    st.one_of(st.none(), st.binary(max_size=4), scalars, st.integers(-(2**63), 2**64 - 1)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=2)),
)
nearly = st.tuples(
    text,
    st.lists(st.tuples(anything, anything), max_size=2),
    st.lists(st.tuples(text, st.sampled_from(sorted(DTYPES)), anything), max_size=2),
)


@settings(max_examples=300)
@given(st.one_of(anything, st.builds(framed, st.one_of(anything, nearly), st.binary(max_size=64))))
def test_any_value_is_read_or_refused_as_malformed(value: object) -> None:
    try:
        message = brine_codec.unpack(value)
    except MalformedMessage:
        return
    assert isinstance(message, Message)


FLOATS = ("x", "float32", (2,))
LIES = {
    "no array": framed({"method": "m"}),
    "too short": framed(("m", ())),
    "fields in an object": framed(("m", {}, ())),
    "a method of bytes": framed((b"m", (), ())),
    "a tensor too short": framed(("m", (), (FLOATS[:2],)), bytes(8)),
    "an unknown dtype": framed(("m", (), (("x", "object", (2,)),)), bytes(8)),
    "a lying shape": framed(("m", (), (("x", "float32", (3,)),)), bytes(8)),
    "a negative extent": framed(("m", (), (("x", "float32", (-2,)),)), bytes(8)),
    "a bool for an extent": framed(("m", (), (("x", "float32", (True, 2)),)), bytes(8)),
    "a wide extent": framed(("m", (), (("x", "float32", (0, 2**62, 2**62)),))),
    "truncated bytes": framed(("m", (), (FLOATS,)), bytes(7)),
    "bytes beyond the tensors": framed(("m", (), (FLOATS,)), bytes(9)),
    "a tensor twice": framed(("m", (), (FLOATS, FLOATS)), bytes(24)),
    "a field twice": framed(("m", (("k", 1), ("k", 2)), ())),
    "a field of bytes": framed(("m", (("k", b""),), ())),
    "a wide field": framed(("m", (("k", 2**63),), ())),
    "a bool of 2": framed(("m", (), (("x", "bool", (1,)),)), b"\x02"),
    "truncated description": framed(("m", (), ()))[:-1],
    "another magic": b"none" + framed(("m", (), ()))[4:],
    "no head": b"spb1",
    "a bytearray": bytearray(framed(("m", (), ()))),
    "a tuple": (framed(("m", (), ())),),
    "an array": np.frombuffer(framed(("m", (), ())), np.uint8),
    "a subclass of bytes": np.bytes_(framed(("m", (), ()))),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused(lie: str) -> None:
    with pytest.raises(MalformedMessage):
        brine_codec.unpack(LIES[lie])


def test_the_truth_beside_the_lies_is_read() -> None:
    message = brine_codec.unpack(framed(("m", (("k", 1),), (FLOATS,)), bytes(8)))
    assert (message.method, message.fields, message.tensors["x"].tolist()) == ("m", {"k": 1}, [0.0, 0.0])


class Untouchable:
    """Stands for RPyC's connection, which every operation on a reference would call."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def sync_request(self, *request: object) -> object:
        self.asked.append(request)
        raise AssertionError(request)

    async_request = sync_request


@pytest.mark.parametrize("around", [lambda reference: reference, lambda reference: (reference,)])
def test_a_remote_reference_is_refused_untouched(around) -> None:  # type: ignore[no-untyped-def]
    peer = Untouchable()
    reference = BaseNetref(peer, ("builtins.bytes", 1, 2))
    with pytest.raises(MalformedMessage):
        brine_codec.unpack(around(reference))
    assert peer.asked == []
