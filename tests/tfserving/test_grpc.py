"""Answers and refusals over gRPC, equal for the real server (`TFS_BINARY`) and for this project's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from grpc import StatusCode as Code
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from tests.tfserving.conftest import Server
from tests.tfserving.zoo import DTYPES

X = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
A, B = X, np.array([1, 2], "int32")
SUM = A + B[:, None].astype("float32")
BYTES = [b"a", b"\xff\x00\xfe"]
TIMEOUT = 20.0


@pytest.fixture(scope="module")
def channel(server: Server) -> Any:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(str(server.grpc), options) as channel:
        yield channel


@pytest.fixture(scope="module")
def predict(channel: grpc.Channel) -> Callable[[Any], Any]:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return lambda request: stub.Predict(request, timeout=TIMEOUT)


def proto_of(value: Any) -> Any:
    return value if isinstance(value, tf.make_tensor_proto(0).__class__) else tf.make_tensor_proto(value)


def request_of(
    model: str, inputs: Any, *, version: int | None = None, signature: str = "", outputs: tuple[str, ...] = ()
) -> Any:
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = model
    request.model_spec.signature_name = signature
    if version is not None:
        request.model_spec.version.value = version
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(proto_of(value))
    return request


def arrays_of(response: Any) -> dict[str, Any]:
    return {name: tf.make_ndarray(proto) for name, proto in response.outputs.items()}


@dataclass(frozen=True)
class Answered:
    """A request, and the version and outputs of its answer. `spec`: further arguments of `request_of`."""

    model: str
    inputs: Any
    outputs: Any
    version: int = 1
    spec: Any = field(default_factory=dict)


ANSWERED = {
    "the highest version": Answered("scale", {"x": X}, {"y": X * 10}, 10),
    "a chosen version": Answered("scale", {"x": X}, {"y": X * 2}, 2, {"version": 2}),
    "a chosen signature": Answered("scale", {"x": X}, {"y": X + 10}, 10, {"signature": "shift"}),
    "both": Answered("scale", {"x": X}, {"y": X + 2}, 2, {"signature": "shift", "version": 2}),
    "the default signature by name": Answered("scale", {"x": X}, {"y": X * 10}, 10, {"signature": "serving_default"}),
    "no row": Answered("scale", {"x": X[:0]}, {"y": X[:0]}, 10),
    "every output": Answered(
        "mixed", {"a": A, "b": B}, {"sum": SUM, "odd": B % 2 == 1, "square": B.astype("int64") ** 2}
    ),
    "a filter": Answered("mixed", {"a": A, "b": B}, {"odd": B % 2 == 1}, spec={"outputs": ("odd",)}),
    "two filtered": Answered(
        "mixed",
        {"b": B, "a": A},
        {"square": B.astype("int64") ** 2, "sum": SUM},
        spec={"outputs": ("square", "sum")},
    ),
    "strings": Answered("words", {"s": BYTES}, {"text": BYTES, "raw_bytes": BYTES}),
    "a scalar": Answered("words", {"x": X[0]}, {"y": np.float32(3)}, spec={"signature": "scalar"}),
}


@pytest.mark.parametrize("case", ANSWERED)
def test_predict(predict: Callable[[Any], Any], case: str) -> None:
    answered = ANSWERED[case]
    response = predict(request_of(answered.model, answered.inputs, **answered.spec))
    spec = response.model_spec
    expected_signature = answered.spec.get("signature", "serving_default")
    assert (spec.name, spec.version.value, spec.signature_name) == (
        answered.model,
        answered.version,
        expected_signature,
    )
    found = arrays_of(response)
    assert set(found) == set(answered.outputs)
    for name, expected in answered.outputs.items():
        np.testing.assert_array_equal(found[name], expected)
        assert found[name].dtype == np.asarray(expected).dtype or found[name].dtype == object


def malformed(**fields: Any) -> Any:
    proto = tf.make_tensor_proto(X)
    for name, value in fields.items():
        setattr(proto, name, value)
    return proto


REFUSED: dict[str, tuple[Any, Code, str]] = {
    "no model": (predict_pb2.PredictRequest(), Code.INVALID_ARGUMENT, "Missing ModelSpec"),
    "no name": (request_of("", {"x": X}), Code.INVALID_ARGUMENT, "ModelSpec has no name specified"),
    "other model": (request_of("other", {}), Code.NOT_FOUND, "Servable not found for request: Latest(other)"),
    "other version": (
        request_of("scale", {"x": X}, version=3),
        Code.NOT_FOUND,
        "Servable not found for request: Specific(scale, 3)",
    ),
    "other signature": (
        request_of("scale", {"x": X}, signature="other"),
        Code.FAILED_PRECONDITION,
        'Serving signature key "other" not found',
    ),
    "missing input": (
        request_of("mixed", {"a": A}),
        Code.INVALID_ARGUMENT,
        "input size does not match signature: 1!=2 len({a}) != len({a,b}). Sent extra: {}. Missing but required: {b}.",
    ),
    "extra input": (
        request_of("scale", {"x": X, "z": X}),
        Code.INVALID_ARGUMENT,
        "input size does not match signature: 2!=1 len({x,z}) != len({x}). Sent extra: {z}. Missing but required: {}.",
    ),
    "no input": (request_of("scale", {}), Code.INVALID_ARGUMENT, "Missing but required: {x}"),
    "misnamed input": (request_of("scale", {"z": X}), Code.INVALID_ARGUMENT, "x"),
    "other dtype": (
        request_of("scale", {"x": X.astype("float64")}),
        Code.INVALID_ARGUMENT,
        "to be float but double is provided",
    ),
    "other shape": (request_of("mixed", {"a": A, "b": np.array([1, 2, 3], "int32")}), Code.INVALID_ARGUMENT, ""),
    "other output": (
        request_of("scale", {"x": X}, outputs=("z",)),
        Code.INVALID_ARGUMENT,
        "output tensor alias not found in signature: z Outputs expected to be in the set {y}.",
    ),
    "output twice": (
        request_of("scale", {"x": X}, outputs=("y", "y")),
        Code.INVALID_ARGUMENT,
        "duplicate output tensor alias: y",
    ),
    "short tensor": (
        request_of("scale", {"x": malformed(tensor_content=b"abc")}),
        Code.INVALID_ARGUMENT,
        "tensor parsing error: x",
    ),
    "no dtype": (request_of("scale", {"x": malformed(dtype=0)}), Code.INVALID_ARGUMENT, "tensor parsing error: x"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_has_the_code_and_text_of_the_real_server(predict: Callable[[Any], Any], case: str) -> None:
    request, code, words = REFUSED[case]
    with pytest.raises(grpc.RpcError) as caught:
        predict(request)
    assert (caught.value.code(), words in caught.value.details()) == (code, True), caught.value.details()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_short_list_of_values_repeats_its_last_one(predict: Callable[[Any], Any], dtype: str) -> None:
    ones = tf.make_tensor_proto(np.ones(1), dtype=dtype)
    ones.tensor_shape.dim[0].size = 2
    ones.tensor_shape.dim.add().size = 3
    found = arrays_of(predict(request_of("every", {"x": ones}, signature=dtype)))["y"]
    assert found.shape == (2, 3)
    assert (found == np.ones((2, 3), found.dtype)).all()


def test_answers_are_lists_of_values(predict: Callable[[Any], Any]) -> None:
    answer = predict(request_of("scale", {"x": X})).outputs["y"]
    assert (list(answer.float_val), answer.tensor_content) == ((X * 10).ravel().tolist(), b"")


def test_a_message_may_be_larger_than_grpc_allows_by_default(predict: Callable[[Any], Any]) -> None:
    large = np.random.default_rng(0).random((2**20, 2), np.float32)
    np.testing.assert_array_equal(arrays_of(predict(request_of("scale", {"x": large})))["y"], large * 10)


STATES: dict[str, tuple[dict[str, Any], Any]] = {
    "every version": ({"name": "scale"}, [2, 10]),
    "one version": ({"name": "scale", "version": {"value": 2}}, [2]),
    "other version": ({"name": "scale", "version": {"value": 3}}, "Could not find version 3 of model scale"),
    "other model": ({"name": "other"}, "Could not find any versions of model other"),
}


@pytest.mark.parametrize("case", STATES)
def test_status(channel: grpc.Channel, case: str) -> None:
    spec, expected = STATES[case]
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    if isinstance(expected, str):
        with pytest.raises(grpc.RpcError, match=expected) as caught:
            stub.GetModelStatus(request, timeout=TIMEOUT)
        assert caught.value.code() is Code.NOT_FOUND
    else:
        states = stub.GetModelStatus(request, timeout=TIMEOUT).model_version_status
        assert sorted(state.version for state in states) == expected
        assert {state.state for state in states} == {get_model_status_pb2.ModelVersionStatus.AVAILABLE}


METADATA: dict[str, tuple[dict[str, Any], Code, str]] = {
    "no model": ({"metadata_field": ["signature_def"]}, Code.INVALID_ARGUMENT, "Missing ModelSpec"),
    "no field": ({"model_spec": {"name": "scale"}}, Code.INVALID_ARGUMENT, "at least one metadata_field"),
    "other field": (
        {"model_spec": {"name": "scale"}, "metadata_field": ["other"]},
        Code.INVALID_ARGUMENT,
        "is not supported",
    ),
    "other model": (
        {"model_spec": {"name": "other"}, "metadata_field": ["signature_def"]},
        Code.NOT_FOUND,
        "Servable not found for request: Latest(other)",
    ),
}


@pytest.mark.parametrize("case", METADATA)
def test_refused_requests_for_metadata(channel: grpc.Channel, case: str) -> None:
    fields, code, words = METADATA[case]
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    with pytest.raises(grpc.RpcError) as caught:
        stub.GetModelMetadata(get_model_metadata_pb2.GetModelMetadataRequest(**fields), timeout=TIMEOUT)
    assert (caught.value.code(), words in caught.value.details()) == (code, True), caught.value.details()


def test_metadata_describes_the_signatures(channel: grpc.Channel) -> None:
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    fields = {"model_spec": {"name": "mixed"}, "metadata_field": ["signature_def"]}
    answer = stub.GetModelMetadata(get_model_metadata_pb2.GetModelMetadataRequest(**fields), timeout=TIMEOUT)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(definitions)
    signature = definitions.signature_def["serving_default"]
    assert (answer.model_spec.name, answer.model_spec.version.value) == ("mixed", 1)
    assert (set(signature.inputs), set(signature.outputs)) == ({"a", "b"}, {"sum", "odd", "square"})
    assert [dim.size for dim in signature.inputs["a"].tensor_shape.dim] == [-1, 2]
    assert signature.inputs["b"].dtype == tf.int32.as_datatype_enum
