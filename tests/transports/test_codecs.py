"""The codecs without any wire: what is written is read, and what was not written is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

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


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_json_brings_back_each_number_of_two_bytes(dtype: str) -> None:
    every = np.arange(2**16, dtype=np.uint16).view(DTYPES[dtype])
    written = json_codec.write(Message("m", {}, {"x": every}), "json")
    assert json_codec.read(written).tensors["x"].tobytes() == every.tobytes()
    assert len(written) < json_codec.most("json", Limits(every.nbytes))


def test_json_brings_back_the_float32_that_its_shortest_decimal_does_not() -> None:
    bits = np.array([0x15AE43FC, 0x15AE43FD, 0x15AE43FE, 0x95AE43FD, 0x80000000, 1, 0x7F7FFFFF], np.uint32)
    written = json_codec.write(Message("m", {}, {"x": bits.view(np.float32)}), "json")
    assert json_codec.read(written).tensors["x"].tobytes() == bits.tobytes()


def test_json_brings_back_each_exponent_of_a_float32_and_a_float64() -> None:
    chance = np.random.default_rng(0)
    for real, whole in ((np.float32, np.uint32), (np.float64, np.uint64)):
        array = chance.integers(0, np.iinfo(whole).max, 100_000, whole, endpoint=True).view(real)
        written = json_codec.write(Message("m", {}, {"x": array}), "json")
        assert json_codec.read(written).tensors["x"].tobytes() == array.tobytes()
        assert len(written) < json_codec.FACTORS["json"] * array.nbytes


def described(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    """All that a tensor is, every bit of a NaN included."""
    return array.dtype.name, array.shape, array.tobytes()


READABLE = sorted(CODECS.keys() - {"brine"})  # brine reads tuples, and RPyC the bytes


@pytest.mark.parametrize("codec", READABLE)
@few
@given(message=messages, data=st.data())
def test_damaged_bytes_are_read_or_refused_and_nothing_else(codec: str, message: Message, data: st.DataObject) -> None:
    whole = bytearray(CODECS[codec][0](message))
    for place in data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=4)):
        whole[place : place + 1] = data.draw(st.binary(max_size=2))
    assert_read_or_refused(codec, bytes(whole[: data.draw(st.integers(0, len(whole)))]))
    assert_read_or_refused(codec, bytes(whole))


@pytest.mark.parametrize("codec", ["raw", "json"])
@settings(max_examples=300)
@given(data=st.binary(max_size=200))
def test_random_bytes_are_read_or_refused_and_nothing_else(codec: str, data: bytes) -> None:
    assert_read_or_refused(codec, data)


def assert_read_or_refused(codec: str, data: bytes) -> None:
    try:
        message = CODECS[codec][1](data, Limits(10**6))
    except (MalformedMessage, MessageTooLarge):
        return
    assert isinstance(message, Message)


plain = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), text)
documents = st.recursive(
    plain, lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=3))
)
forms = st.one_of(
    st.fixed_dictionaries({"data": st.one_of(st.lists(plain, max_size=3), documents)}, optional={"bits": documents}),
    st.fixed_dictionaries({"b64": st.one_of(text, documents)}),
)
rows = st.builds(
    dict.__or__,
    st.fixed_dictionaries(
        {"name": text, "dtype": st.sampled_from(sorted(DTYPES)), "shape": st.lists(plain, max_size=2)}
    ),
    forms,
)
almost = st.fixed_dictionaries(
    {"method": text, "fields": st.lists(st.tuples(text, documents), max_size=2), "tensors": st.lists(rows, max_size=2)}
)


@settings(max_examples=100)
@given(document=st.one_of(documents, almost))
def test_any_json_is_read_or_refused_and_nothing_else(document: object) -> None:
    assert_read_or_refused("json", json.dumps(document).encode())


ONES = {"name": "conv:0", "dtype": "float32", "shape": [2], "data": [1, 1.0]}
JSON_LIES: Mapping[str, tuple[str, Any]] = {
    "an unknown dtype": ("dtype 'object'", {"dtype": "object"}),
    "an unknown dtype in base64": ("dtype 'object'", {"dtype": "object", "b64": "AAAA"}),
    "a lying shape": ("takes 12 bytes, 8 came", {"shape": [3]}),
    "a lying shape of base64": ("takes 12 bytes, 8 came", {"shape": [3], "b64": "AACAPwAAgD8="}),
    "a negative extent": ("is no shape", {"shape": [-2]}),
    "a real extent": ("is no shape", {"shape": [2.0]}),
    "a bool for an extent": ("is no shape", {"shape": [True, 2]}),
    "too many dimensions": ("is no shape", {"shape": [1] * 40}),
    "a wide extent": ("is no shape", {"shape": [0, 2**62, 2**62], "data": []}),
    "nested lists": ("no float32", {"data": [[1], [2]]}),
    "text for a number": ("no float32", {"data": ["1", "2"]}),
    "an object for a number": ("no float32", {"data": [{}, {}]}),
    "null for a number": ("no float32", {"data": [1, None]}),
    "a number too large": ("too large for float32", {"data": [1, 1e39]}),
    "a number too large for two bytes": ("too large for float16", {"dtype": "float16", "data": [1, 65520]}),
    "half a complex number": ("takes 16 bytes, 8 came", {"dtype": "complex64", "shape": [2]}),
    "a fraction for an integer": ("no int32", {"dtype": "int32", "data": [1, 1.5]}),
    "an integer too large": ("no uint8", {"dtype": "uint8", "data": [1, 256]}),
    "a negative count": ("no uint8", {"dtype": "uint8", "data": [1, -1]}),
    "a bool of 2": ("must be 0 or 1", {"dtype": "bool", "data": [1, 2]}),
    "text for the data": ("'data' must be a list", {"data": "11"}),
    "bits for no null": ("1 bits for 0 nulls", {"bits": ["7fc00000"]}),
    "bits too few": ("1 bits for 2 nulls", {"data": [None, None], "bits": ["7fc00000"]}),
    "bits too short": ("bits are no float32", {"data": [1, None], "bits": ["7fc0"]}),
    "bits that are none": ("no list of hexadecimal", {"data": [1, None], "bits": ["7fc0000x"]}),
    "bits that are numbers": ("no list of hexadecimal", {"data": [1, None], "bits": [7]}),
    "bits of an integer": ("bits are no int8", {"dtype": "int8", "data": [1, None], "bits": ["7f"]}),
    "no base64": ("no base64|takes 8 bytes", {"b64": "????????????"}),
    "base64 beyond ASCII": ("no base64", {"b64": "è" * 11 + "="}),
}


@pytest.mark.parametrize("lie", JSON_LIES)
def test_a_lie_in_json_is_refused_by_name(lie: str) -> None:
    why, change = JSON_LIES[lie]
    tensor = {key: value for key, value in ONES.items() if key != "data" or "b64" not in change} | change
    with pytest.raises(MalformedMessage, match=f"'conv:0'.*({why})"):
        json_codec.read(json.dumps({"method": "m", "fields": [], "tensors": [tensor]}).encode())


@pytest.mark.parametrize(
    ("why", "fields", "tensors"),
    [
        ("tensor 'conv:0' came twice", [], [ONES, ONES]),
        ("field 'k' came twice", [["k", 1], ["k", 2]], []),
        ("field must be a list of its name and its value", ["k"], []),
        ("field 'k' must be a str, int", [["k", None]], []),
        ("field 'k' does not fit 64 bits", [["k", 2**63]], []),
        ("bits are no float64", [["k", {"bits": "7fc00000"}]], []),
        ("'k' must be an object of bits", [["k", {}]], []),
        ("'conv:0' must be an object of name, dtype, shape, data", [], [ONES | {"b65": ""}]),
        ("must be an object of name, dtype, shape, data", [], [[]]),
        ("must be an object of method, fields, tensors", [], None),
    ],
)
def test_json_that_is_no_message_is_refused(why: str, fields: Any, tensors: Any) -> None:
    document = {"method": "m", "fields": list(fields), "tensors": tensors}
    if tensors is None:
        del document["tensors"]
    with pytest.raises(MalformedMessage, match=why):
        json_codec.read(json.dumps(document).encode())


@pytest.mark.parametrize(("what", "swarm"), [("lists and objects", b"[" * 10**6), ("values", b"[" + b"0," * 10**6)])
def test_a_swarm_of_small_values_is_refused_before_it_is_parsed(what: str, swarm: bytes) -> None:
    with pytest.raises(MessageTooLarge, match=rf"\d{{7}} {what}, above the limit of \d+"):
        json_codec.read(swarm, Limits(10**5))


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
