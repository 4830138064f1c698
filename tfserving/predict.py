"""The services of the model server, the same for gRPC and REST.

The checks, their order and the texts of refusals are TensorFlow Serving's
(`servables/tensorflow/predict_util.cc`, `get_model_metadata_impl.cc`, `model_servers/get_model_status_impl.cc`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2

from tfserving.models import Models, Signature
from tfserving.status import invalid
from tfserving.tensors import decode, encode_into
from transports.base import Array
from transports.errors import WireError

SIGNATURE_DEF = "signature_def"


def predict(models: Models, request: Any, *, content: bool) -> Any:
    """PredictionService.Predict. `content`: answer with `tensor_content` instead of lists of values."""
    version = models.find(_spec(request))
    signature = version.signature(request.model_spec.signature_name)
    _check_names(request.inputs, signature.dtypes)
    inputs = {name: _input(name, request.inputs[name]) for name in signature.dtypes}
    outputs = run(signature, inputs, request.output_filter)
    response = predict_pb2.PredictResponse()
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    response.model_spec.signature_name = signature.name
    for name, array in outputs.items():
        encode_into(response.outputs[name], array, content=content)
    return response


def run(signature: Signature, inputs: Mapping[str, Array], output_filter: Sequence[str] = ()) -> dict[str, Array]:
    """The outputs that the filter names (empty: all). Raises `Refusal`, and any error of TensorFlow."""
    for place, name in enumerate(output_filter):
        if name not in signature.outputs:
            raise invalid(
                f"output tensor alias not found in signature: {name} "
                f"Outputs expected to be in the set {_braces(signature.outputs)}."
            )
        if name in output_filter[:place]:
            raise invalid(f"duplicate output tensor alias: {name}")
    for position, (name, dtype) in enumerate(signature.dtypes.items()):
        if (found := tf.as_dtype(inputs[name].dtype)) != dtype:
            words = f"to be {_word(dtype)} but {_word(found)} is provided"
            raise invalid(f"Expects arg[{position}] {words} (input {name})")
    return signature.run(inputs, output_filter or signature.outputs)


def metadata(models: Models, request: Any) -> Any:
    """PredictionService.GetModelMetadata."""
    spec = _spec(request)
    if not request.metadata_field:
        raise invalid("GetModelMetadataRequest must specify at least one metadata_field")
    for field in request.metadata_field:
        if field != SIGNATURE_DEF:
            raise invalid(f"Metadata field {field} is not supported")
    version = models.find(spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse()
    response.model_spec.name = version.model
    response.model_spec.version.value = version.number
    definitions = get_model_metadata_pb2.SignatureDefMap(signature_def=version.definitions)
    response.metadata[SIGNATURE_DEF].Pack(definitions)
    return response


def status(models: Models, request: Any) -> Any:
    """ModelService.GetModelStatus. Every model is AVAILABLE, since all are loaded before a port is bound."""
    response = get_model_status_pb2.GetModelStatusResponse()
    for number in models.numbers(_spec(request)):
        state = response.model_version_status.add(version=number)
        state.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
        state.status.SetInParent()
    return response


def _spec(request: Any) -> Any:
    if not request.HasField("model_spec"):
        raise invalid("Missing ModelSpec")
    return request.model_spec


def _check_names(sent: Collection[str], expected: Collection[str]) -> None:
    if set(sent) == set(expected):
        return
    extra, missing = set(sent).difference(expected), set(expected).difference(sent)
    if len(sent) != len(expected):
        raise invalid(
            f"input size does not match signature: {len(sent)}!={len(expected)} len({_braces(sent)}) != "
            f"len({_braces(expected)}). Sent extra: {_braces(extra)}. Missing but required: {_braces(missing)}."
        )
    raise invalid(
        f"Signature input alias: {min(missing)} not found in request and no default value provided. "
        f"Inputs expected to be in the request {_braces(sent)}"
    )


def _input(name: str, proto: Any) -> Array:
    try:
        return decode(name, proto)
    except WireError as error:
        raise invalid(f"tensor parsing error: {name} ({error})") from error


def _braces(names: Iterable[str]) -> str:
    return f"{{{','.join(sorted(names))}}}"


def _word(dtype: tf.DType) -> str:
    """The name of the type in TensorFlow's C++: `float` for `float32`."""
    return {"float16": "half", "float32": "float", "float64": "double"}.get(dtype.name, str(dtype.name))
