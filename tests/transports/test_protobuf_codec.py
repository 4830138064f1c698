"""Protobuf: lies about a tensor are refused by name."""

from __future__ import annotations

import numpy as np
import pytest

from transports import Message, protobuf_codec
from transports import splitbench_pb2 as pb
from transports.errors import MalformedMessage


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
