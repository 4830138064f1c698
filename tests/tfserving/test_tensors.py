"""Tensors in both forms of `TensorProto`, compared with TensorFlow's own functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

from tests.tfserving.zoo import DTYPES, values
from tfserving.tensors import decode, encode_into
from transports.errors import MalformedMessage, MessageTooLarge

SHAPES = [(2, 3), (0, 3), (), (200,)]


@pytest.mark.parametrize("content", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_written_tensors_are_read_by_tensorflow_and_here(dtype: str, shape: tuple[int, ...], content: bool) -> None:
    array = values(dtype, shape)
    proto = tensor_pb2.TensorProto()
    encode_into(proto, array, content=content)
    assert bool(proto.tensor_content) == (content and array.size > 0)
    for found in (tf.make_ndarray(proto), decode("x", proto)):
        assert (found.dtype, found.shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_tensors_that_tensorflow_writes_are_read(dtype: str, shape: tuple[int, ...]) -> None:
    array = values(dtype, shape)
    np.testing.assert_array_equal(decode("x", tf.make_tensor_proto(array)), array)


@pytest.mark.parametrize("shape", SHAPES)
def test_byte_strings_are_written_and_read(shape: tuple[int, ...]) -> None:
    array = np.full(shape, b"\xff\x00", object)
    proto = tensor_pb2.TensorProto()
    encode_into(proto, array, content=False)
    assert decode("x", proto).tolist() == tf.make_ndarray(proto).tolist() == array.tolist()


def test_an_unknown_field_is_not_read_as_values() -> None:
    proto = tensor_pb2.TensorProto()
    encode_into(proto, values("float32", (5,)), content=False)
    proto.MergeFromString(b"\xfa\x7f\x04\x01\x02\x03\x04")
    np.testing.assert_array_equal(decode("x", proto), values("float32", (5,)))


def proto_of(shape: tuple[int, ...], **fields: Any) -> Any:
    proto = tensor_pb2.TensorProto(dtype=1, **fields)
    for extent in shape:
        proto.tensor_shape.dim.add().size = extent
    return proto


BROKEN = {
    "short content": (proto_of((2,), tensor_content=b"1234"), MalformedMessage),
    "too many values": (proto_of((2,), float_val=[1, 2, 3]), MalformedMessage),
    "negative extent": (proto_of((-1,), float_val=[1]), MalformedMessage),
    "few bytes for very many": (proto_of((2**40,), float_val=[1]), MessageTooLarge),
    "no dtype": (tensor_pb2.TensorProto(), MalformedMessage),
    "too many strings": (tensor_pb2.TensorProto(dtype=7, string_val=[b"a", b"b"]), MalformedMessage),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_tensor_is_refused(case: str) -> None:
    proto, kind = BROKEN[case]
    with pytest.raises(kind, match="'x'"):
        decode("x", proto)
