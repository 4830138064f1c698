"""Brine: only exact tuples are read, and a remote reference is refused without a call to the peer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpyc.core import brine
from rpyc.core.netref import BaseNetref

from tests.transports.test_codecs import messages, scalars, text
from transports import Message, brine_codec
from transports.base import DTYPES
from transports.errors import MalformedMessage

anything = st.recursive(
    st.one_of(st.none(), st.binary(max_size=4), scalars, st.integers(), st.complex_numbers(), st.just(Ellipsis)),
    lambda inner: st.one_of(st.lists(inner, max_size=4).map(tuple), st.frozensets(inner, max_size=2)),
)
nearly = st.tuples(
    text,
    st.lists(st.tuples(anything, anything), max_size=2).map(tuple),
    st.lists(st.tuples(text, st.sampled_from(sorted(DTYPES)), anything, anything), max_size=2).map(tuple),
)


@settings(max_examples=300)
@given(st.one_of(anything, nearly))
def test_tuples_of_anything_are_read_or_refused_and_nothing_else(value: object) -> None:
    try:
        message = brine_codec.unpack(value)
    except MalformedMessage:
        return
    assert isinstance(message, Message)


@given(messages)
def test_a_packed_message_crosses_by_value(message: Message) -> None:
    assert brine.dumpable(brine_codec.pack(message))


FLOATS = ("x", "float32", (2,), bytes(8))
LIES = {
    "a list": ["m", (), ()],
    "too short": ("m", ()),
    "a list of fields": ("m", [], ()),
    "a tensor too short": ("m", (), (FLOATS[:3],)),
    "a bytearray": ("m", (), (("x", "float32", (2,), bytearray(8)),)),
    "an unknown dtype": ("m", (), (("x", "object", (2,), bytes(8)),)),
    "a lying shape": ("m", (), (("x", "float32", (3,), bytes(8)),)),
    "a negative extent": ("m", (), (("x", "float32", (-2,), bytes(8)),)),
    "a bool for an extent": ("m", (), (("x", "float32", (True, 2), bytes(8)),)),
    "a wide extent": ("m", (), (("x", "float32", (0, 2**62, 2**62), b""),)),
    "truncated bytes": ("m", (), (("x", "float32", (2,), bytes(7)),)),
    "a tensor twice": ("m", (), (FLOATS, FLOATS)),
    "a field twice": ("m", (("k", 1), ("k", 2)), ()),
    "a field of bytes": ("m", (("k", b""),), ()),
    "a wide field": ("m", (("k", 2**63),), ()),
    "a bool of 2": ("m", (), (("x", "bool", (1,), b"\x02"),)),
    "an array": np.zeros(3),
    "an array inside": ("m", (), (("x", "float32", (2,), np.zeros(2, np.float32)),)),
    "a subclass of str": (np.str_("m"), (), ()),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_in_a_tuple_is_refused(lie: str) -> None:
    with pytest.raises(MalformedMessage):
        brine_codec.unpack(LIES[lie])


class Untouchable:
    """Stands in for RPyC's connection, which a remote reference calls for every operation on the reference."""

    def __init__(self) -> None:
        self.asked: list[object] = []

    def sync_request(self, *request: object) -> object:
        self.asked.append(request)
        raise AssertionError(request)

    async_request = sync_request


@pytest.mark.parametrize(
    "around",
    [
        lambda reference: reference,
        lambda reference: (reference, (), ()),
        lambda reference: ("m", reference, ()),
        lambda reference: ("m", (reference,), ()),
        lambda reference: ("m", ((reference, 1),), ()),
        lambda reference: ("m", (("k", reference),), ()),
        lambda reference: ("m", (), (reference,)),
        lambda reference: ("m", (), (("x", reference, (2,), bytes(8)),)),
        lambda reference: ("m", (), (("x", "float32", (reference,), bytes(8)),)),
        lambda reference: ("m", (), (("x", "float32", (2,), reference),)),
    ],
)
def test_a_remote_reference_is_refused_untouched(around) -> None:  # type: ignore[no-untyped-def]
    peer = Untouchable()
    reference = BaseNetref(peer, ("builtins.bytes", 1, 2))
    with pytest.raises(MalformedMessage):
        brine_codec.unpack(around(reference))
    assert peer.asked == []
