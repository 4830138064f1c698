"""The `tensorproto` form is TensorFlow's own, byte for byte. TensorFlow checks this; only this test imports it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from transports import Limits, Message, protobuf_codec
from transports import splitbench_pb2 as pb
from transports.base import DTYPES, Array
from transports.errors import MalformedMessage, MessageTooLarge

SHAPES: list[tuple[int, ...]] = [(), (1,), (5,), (1, 1), (2, 3), (0, 3), (3, 1, 200)]


@pytest.fixture(scope="module")
def tf() -> Any:
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def official(tf: Any) -> Any:
    return tf.make_tensor_proto(0).__class__


def ours(array: Array) -> pb.TensorProto:
    data = protobuf_codec.write(Message("m", {}, {"x": array}), "tensorproto")
    return pb.Message.FromString(data).tensors[0].tensor_proto


def read(proto: pb.TensorProto, limit: int = 10**9) -> Array:
    message = pb.Message(method="m", tensors=[pb.Tensor(name="x", tensor_proto=proto)])
    return protobuf_codec.read(message.SerializeToString(), Limits(limit)).tensors["x"]


def arrays(dtype: str) -> list[Array]:
    counted = [np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(DTYPES[dtype]) for shape in SHAPES]
    repeated = [np.full(shape, 1).astype(DTYPES[dtype]) for shape in SHAPES]
    return [*counted, *repeated, np.zeros((4, 4), DTYPES[dtype])]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tensorflow_reads_what_we_write(tf: Any, official: Any, dtype: str) -> None:
    for array in arrays(dtype):
        back = tf.make_ndarray(official.FromString(ours(array).SerializeToString()))
        assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_write_the_bytes_that_tensorflow_writes(tf: Any, dtype: str) -> None:
    for array in arrays(dtype):
        theirs = tf.make_tensor_proto(array).SerializeToString(deterministic=True)
        assert ours(array).SerializeToString(deterministic=True) == theirs, array.shape


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_what_tensorflow_writes(tf: Any, official: Any, dtype: str) -> None:
    for array in arrays(dtype):
        python = tf.make_tensor_proto(array)  # lists for one element, bytes for more
        runtime = official.FromString(_constant(tf, array))  # lists that repeat their last value
        for proto in (python, runtime):
            back = read(pb.TensorProto.FromString(proto.SerializeToString()))
            assert (back.dtype, back.shape, back.tobytes()) == (array.dtype, array.shape, array.tobytes())


def _constant(tf: Any, array: Array) -> bytes:
    """The constant as a graph holds it: compressed by `tensor::CompressTensorProtoInPlace`."""
    with tf.Graph().as_default() as graph:
        tf.constant(array)
    data: bytes = graph.as_graph_def().node[0].attr["value"].tensor.SerializeToString()
    return data


def test_a_short_list_repeats_its_last_value_as_in_tensorflow(tf: Any, official: Any) -> None:
    proto = pb.TensorProto(dtype=pb.DT_FLOAT, float_val=[1, 2])
    proto.tensor_shape.dim.add(size=5)
    theirs = tf.make_ndarray(official.FromString(proto.SerializeToString()))
    assert list(read(proto)) == list(theirs) == [1, 2, 2, 2, 2]


def test_an_empty_list_is_zeros_as_in_tensorflow(tf: Any, official: Any) -> None:
    proto = pb.TensorProto(dtype=pb.DT_INT32)
    proto.tensor_shape.dim.add(size=3)
    assert list(read(proto)) == list(tf.make_ndarray(official.FromString(proto.SerializeToString()))) == [0, 0, 0]


def test_the_names_of_the_numbers_are_tensorflows(tf: Any) -> None:
    for name, number in protobuf_codec.NUMBERS.items():
        assert tf.as_dtype(number).name == name


def proto(dtype: int, *extents: int, **lists: Any) -> pb.TensorProto:
    dims = [pb.TensorShapeProto.Dim(size=extent) for extent in extents]
    return pb.TensorProto(dtype=dtype, tensor_shape=pb.TensorShapeProto(dim=dims), **lists)  # type: ignore[arg-type]


LIES = {
    "more values than elements": proto(pb.DT_FLOAT, 2, float_val=[1, 2, 3]),
    "a value that does not fit": proto(pb.DT_UINT8, 1, int_val=[256]),
    "half a complex number": proto(pb.DT_COMPLEX64, 1, scomplex_val=[1]),
    "strings": proto(pb.DT_STRING, 1, string_val=[b"x"]),
    "an unknown number": proto(99, 1),
    "an unknown rank": pb.TensorProto(dtype=pb.DT_FLOAT, tensor_shape=pb.TensorShapeProto(unknown_rank=True)),
    "an unknown extent": proto(pb.DT_FLOAT, -1, float_val=[1]),
    "truncated bytes": proto(pb.DT_FLOAT, 2, tensor_content=bytes(7)),
    "a half too wide": proto(pb.DT_HALF, 1, half_val=[2**16]),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_refused_by_name(lie: str) -> None:
    with pytest.raises(MalformedMessage, match="'x'"):
        read(LIES[lie])


def test_a_few_bytes_never_unfold_above_the_limit() -> None:
    with pytest.raises(MessageTooLarge, match=r"4000000000 bytes, above the limit of 1000000 bytes"):
        read(proto(pb.DT_FLOAT, 10**9, float_val=[1]), limit=10**6)
