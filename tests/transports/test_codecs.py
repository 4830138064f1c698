"""The codecs without any wire: what is written is read, and what was not written is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpyc.core import brine
from rpyc.core.netref import BaseNetref

from transports import Limits, Message, brine_codec, json_codec, protobuf_codec
from transports import splitbench_pb2 as pb
from transports.base import DTYPES, Array
from transports.errors import MalformedMessage, MessageTooLarge

CODECS = {
    "raw": (lambda message: protobuf_codec.write(message, "raw"), protobuf_codec.read),
    "tensorproto": (lambda message: protobuf_codec.write(message, "tensorproto"), protobuf_codec.read),
    "json": (lambda message: json_codec.write(message, "json"), json_codec.read),
    "json-b64": (lambda message: json_codec.write(message, "json-b64"), json_codec.read),
    "brine": (lambda message: brine.dump(brine_codec.pack(message)), lambda data: brine_codec.unpack(brine.load(data))),
}
"""name -> (message to bytes, bytes to message)"""

few = settings(max_examples=60, deadline=None)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(text, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any bits of any dtype, seen through any stride and order."""
    dtype = DTYPES[draw(st.sampled_from(sorted(DTYPES)))]
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    data = draw(st.binary(min_size=(size := math.prod(shape) * dtype.itemsize), max_size=size))
    if dtype.kind == "b":
        data = bytes(byte & 1 for byte in data)
    array: Array = np.ndarray(shape, dtype, buffer=data)
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    return array[tuple(slice(None, None, draw(st.sampled_from([1, 2, -1]))) for _ in shape)]


messages = st.builds(
    Message,
    method=text,
    fields=st.dictionaries(text, scalars, max_size=3),
    tensors=st.dictionaries(text, arrays(), max_size=3),
)


@pytest.mark.parametrize("codec", CODECS)
@few
@given(message=messages)
def test_a_message_is_read_as_it_was_written(codec: str, message: Message) -> None:
    write, read = CODECS[codec]
    back = read(write(message))
    assert (back.method, back.fields) == (message.method, message.fields)
    assert {key: type(value) for key, value in back.fields.items()} == {k: type(v) for k, v in message.fields.items()}
    assert {name: described(array) for name, array in back.tensors.items()} == {
        name: described(array) for name, array in message.tensors.items()
    }


def described(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    """All that a tensor is, every bit of a NaN included."""
    return array.dtype.name, array.shape, array.tobytes()


@pytest.mark.parametrize("codec", ["raw", "tensorproto"])
@few
@given(message=messages, data=st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(codec: str, message: Message, data: st.DataObject) -> None:
    whole = bytearray(protobuf_codec.write(message, codec))
    for place in data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=4)):
        whole[place : place + 1] = data.draw(st.binary(max_size=2))
    assert_read_or_refused(bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert_read_or_refused(bytes(whole))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_random_bytes_are_read_or_refused_and_nothing_else(data: bytes) -> None:
    assert_read_or_refused(data)


def assert_read_or_refused(data: bytes) -> None:
    try:
        message = protobuf_codec.read(data, Limits(10**6))
    except (MalformedMessage, MessageTooLarge):
        return
    assert isinstance(message, Message)


anything = st.recursive(
    st.one_of(st.none(), st.binary(max_size=4), scalars, st.integers(), st.complex_numbers(), st.just(Ellipsis)),
    lambda inner: st.one_of(st.lists(inner, max_size=4).map(tuple), st.frozensets(inner, max_size=2)),
)
nearly = st.tuples(
    text,
    st.lists(st.tuples(anything, anything), max_size=2).map(tuple),
    st.lists(st.tuples(text, st.sampled_from(sorted(DTYPES)), anything, anything), max_size=2).map(tuple),
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(anything, nearly))
def test_tuples_of_anything_are_read_or_refused_and_nothing_else(value: object) -> None:
    try:
        message = brine_codec.unpack(value)
    except MalformedMessage:
        return
    assert isinstance(message, Message)


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
    """Stands for RPyC's connection: a reference asks it for whatever is done to the reference."""

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


@pytest.mark.parametrize("codec", ["raw", "tensorproto"])
def test_a_tensor_that_comes_twice_is_refused(codec: str) -> None:
    out = pb.Message.FromString(protobuf_codec.write(Message("m", {}, {"x": np.zeros(2)}), codec))
    out.tensors.append(out.tensors[0])
    with pytest.raises(MalformedMessage, match="'x' came twice"):
        protobuf_codec.read(out.SerializeToString())


RAW_LIES = {
    "an unknown dtype": pb.Raw(dtype="object", shape=[2], data=bytes(8)),
    "a lying shape": pb.Raw(dtype="float32", shape=[3], data=bytes(8)),
    "a negative extent": pb.Raw(dtype="float32", shape=[-2], data=bytes(8)),
    "two negative extents": pb.Raw(dtype="float32", shape=[-2, -1], data=bytes(8)),
    "truncated bytes": pb.Raw(dtype="float32", shape=[2], data=bytes(7)),
    "too many dimensions": pb.Raw(dtype="float32", shape=[1] * 40, data=bytes(4)),
}


@pytest.mark.parametrize("lie", RAW_LIES)
def test_a_lie_in_a_raw_tensor_is_refused_by_name(lie: str) -> None:
    data = pb.Message(tensors=[pb.Tensor(name="conv:0", raw=RAW_LIES[lie])]).SerializeToString()
    with pytest.raises(MalformedMessage, match="'conv:0'"):
        protobuf_codec.read(data)


@pytest.mark.parametrize("empty", [pb.Message(tensors=[pb.Tensor(name="x")]), pb.Message(fields={"x": pb.Scalar()})])
def test_what_came_without_a_value_is_refused_by_name(empty: pb.Message) -> None:
    with pytest.raises(MalformedMessage, match="'x' came without a value"):
        protobuf_codec.read(empty.SerializeToString())
