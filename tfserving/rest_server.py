"""The REST interface of the server, over the HTTP server of the transport `rest`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from tfserving import predict, rest_json
from tfserving.models import DEFAULT, Models, Signature
from tfserving.shapes import completed
from tfserving.status import HTTP, invalid, of_exception, unimplemented
from tfserving.tensors import LIMIT
from transports.address import Address
from transports.errors import MessageTooLarge, WireError
from transports.http_server import Head, HttpServer, Reply
from transports.limits import Limits

MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+))?"
POST = re.compile(rf"(?i){MODEL}:(classify|regress|predict)")
GET = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+))?(?:/(metadata))?")


class RestServer(HttpServer):
    """Serves `models` at `host`:`port` (0: a free one), and handles up to `workers` requests at a time."""

    def __init__(self, models: Models, host: str, port: int, workers: int) -> None:
        super().__init__(_Interface(models), Address(host, port), Limits.stall, workers)


class _Interface:
    """The `http_server.Application` that serves the models."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def admit(self, head: Head) -> int:
        return LIMIT

    def answer(self, head: Head, body: bytearray) -> Reply:
        try:
            return Reply(200, _answer(self._models, head.method, head.path, body))
        except Exception as error:
            refusal = of_exception(error)
            return Reply(HTTP[refusal.code], _error_body(refusal.text))

    def refusal(self, error: WireError) -> Reply:
        return Reply(413 if isinstance(error, MessageTooLarge) else 400, _error_body(str(error)))


def _answer(models: Models, method: str, path: str, body: bytearray) -> bytes:
    """The body of the answer. Raises `Refusal`, and TensorFlow's errors."""
    if method == "POST" and (found := POST.fullmatch(path)):
        return VERBS[found[3].lower()](models, _spec(found), body)
    if method == "GET" and (found := GET.fullmatch(path)):
        if not found[1]:
            raise invalid("Missing model name in request.")
        return (_metadata if found[3] else _status)(models, _spec(found))
    raise invalid(f"Malformed request: {method} {path}")


def _spec(found: re.Match[str]) -> Any:
    spec = model_pb2.ModelSpec(name=unquote(found[1]))
    if found[2]:
        if int(found[2]) >= 2**63:
            raise invalid(f"Failed to convert version: {found[2]} to numeric.")
        spec.version.value = int(found[2])
    return spec


def _predict(models: Models, spec: Any, body: bytearray) -> bytes:
    document = rest_json.parse(body)
    signature = _signature(models, spec, document.get("signature_name", ""))
    form, inputs = rest_json.read_inputs(document, signature.dtypes)
    whole = {name: completed(array, signature.shapes[name]) for name, array in inputs.items()}
    return rest_json.write_outputs(form, predict.run(signature, whole))


def _signature(models: Models, spec: Any, name: str) -> Signature:
    """The signature called `name`. As in TensorFlow Serving, the refusal has another text than over gRPC."""
    version = models.find(spec)
    if (name or DEFAULT) not in version.signatures:
        raise invalid(f'Serving signature name: "{name or DEFAULT}" not found in signature def')
    return version.signature(name)


def _absent(models: Models, spec: Any, body: bytearray) -> bytes:
    raise unimplemented("this server has predict, and neither classify nor regress")


VERBS = {"predict": _predict, "classify": _absent, "regress": _absent}


def _status(models: Models, spec: Any) -> bytes:
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=spec)
    answer = predict.status(models, request)
    return json.dumps(MessageToDict(answer, always_print_fields_with_no_presence=True), indent=1).encode()


def _metadata(models: Models, spec: Any) -> bytes:
    fields = [predict.SIGNATURE_DEF]
    request = get_model_metadata_pb2.GetModelMetadataRequest(model_spec=spec, metadata_field=fields)
    answer = predict.metadata(models, request)
    definitions = get_model_metadata_pb2.SignatureDefMap()
    answer.metadata[predict.SIGNATURE_DEF].Unpack(definitions)
    record = {"model_spec": _record(answer.model_spec), "metadata": {predict.SIGNATURE_DEF: _record(definitions)}}
    return json.dumps(record, indent=1).encode()


def _record(message: Any) -> Mapping[str, Any]:
    record: Mapping[str, Any] = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return record


def _error_body(text: str) -> bytes:
    return json.dumps({"error": text}).encode()
