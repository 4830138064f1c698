"""Every codec without any wire: a message is read as it was written, and damaged bytes are read or refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rpyc.core import brine

from transports import Limits, Message, brine_codec, frame_codec, json_codec, protobuf_codec
from transports.base import DTYPES, Array
from transports.errors import MalformedMessage, MessageTooLarge

CODECS = {
    "raw": (lambda message: protobuf_codec.write(message, "raw"), protobuf_codec.read),
    "tensorproto": (lambda message: protobuf_codec.write(message, "tensorproto"), protobuf_codec.read),
    "json": (lambda message: json_codec.write(message, "json"), json_codec.read),
    "json-b64": (lambda message: json_codec.write(message, "json-b64"), json_codec.read),
    "frame": (frame_codec.write, lambda data, _=None: frame_codec.read_whole(data)),
    "brine": (lambda message: brine.dump(brine_codec.pack(message)), lambda data: brine_codec.unpack(brine.load(data))),
}
"""name -> (message to bytes, bytes to message)"""

few = settings(max_examples=60, deadline=None)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
scalars = st.one_of(text, st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Arrays with any bits, any dtype, any strides and any order of axes."""
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
    """All that identifies a tensor, every bit of a NaN included."""
    return array.dtype.name, array.shape, array.tobytes()


READABLE = sorted(CODECS.keys() - {"brine"})  # the brine codec reads tuples; RPyC reads the bytes


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


@pytest.mark.parametrize("codec", CODECS)
def test_a_message_that_no_reader_accepts_is_not_written(codec: str) -> None:
    write, _ = CODECS[codec]
    for fields, text in (
        ({"a": 2**63}, "field 'a' does not fit 64 bits"),
        ({"a": -(2**63) - 1}, "field 'a' does not fit 64 bits"),
        ({"a": "\udcff"}, "field 'a' holds characters that UTF-8 cannot"),
        ({"a": [1]}, "field 'a' must be a str, int, float or bool, and is a list"),
        ({1: "a"}, "a key must be a str, and is a int"),
    ):
        with pytest.raises(MalformedMessage, match=text):
            write(Message("m", fields))  # type: ignore[arg-type]
    for fields in ({"a": 2**63 - 1}, {"a": -(2**63)}):
        write(Message("m", fields))
