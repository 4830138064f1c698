"""The REST interface of a server of ours.

On `http.server`: it is in the standard library, speaks HTTP/1.1 with connections that are kept, and has a thread for
each of them, which is what this needs; an event loop would only hand the work on to threads. Handlers at work are
counted, not connections: one that is kept and idle takes nobody's place.
"""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote

from google.protobuf.json_format import MessageToDict
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, model_pb2

from cluster.serving import predict, rest_json
from cluster.serving.models import DEFAULT, Models, Signature
from cluster.serving.status import HTTP, invalid, of_exception, unimplemented
from cluster.serving.tensors import LIMIT
from transports.base import Address
from transports.errors import ConnectError

__all__ = ["RestServer"]

log = logging.getLogger("splitbench.serving")

MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d+))?"
POST = re.compile(rf"(?i){MODEL}:(classify|regress|predict)")
GET = re.compile(r"(?i)/v1/models(?:/([^/:]+))?(?:/versions/(\d+))?(?:/(metadata))?")


class RestServer:
    """Serves `models` at `host`:`port` (0: a free one), with at most `workers` requests being handled at a time."""

    def __init__(self, models: Models, host: str, port: int, workers: int) -> None:
        handler = type("Handler", (_Handler,), {"models": models, "free": threading.BoundedSemaphore(workers)})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise ConnectError(f"cannot bind {host}:{port}: {error.strerror}") from error
        self.address = Address(host, self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="rest", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more requests."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away amid an answer is no news; the standard would print it as the last words."""
        log.debug("the connection of %s failed", client_address, exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    models: Models
    free: threading.BoundedSemaphore

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body in one write
    timeout = 300.0  # seconds that a connection may be idle

    def _respond(self) -> None:
        body = self._body()
        if body is None:
            return
        try:
            with self.free:
                status, answer = 200, _answer(self.models, self.command, self.path.partition("?")[0], body)
        except Exception as error:
            refusal = of_exception(error)
            status, answer = HTTP[refusal.code], _error_body(refusal.text)
        self._send(status, answer)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _respond

    def _body(self) -> bytes | None:
        """What the request carries; None once it is refused, for then nobody knows where the next one begins."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal() or int(length) > LIMIT:
            self.close_connection = True
            self._send(411, _error_body(f"a request must have a Content-Length of at most {LIMIT}"))
            return None
        body = self.rfile.read(int(length))
        return body if len(body) == int(length) else None

    def _send(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


def _answer(models: Models, method: str, path: str, body: bytes) -> bytes:
    """The body of the answer. Raises `Refusal`, and what TensorFlow raises."""
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


def _predict(models: Models, spec: Any, body: bytes) -> bytes:
    document = rest_json.parse(body)
    signature = _signature(models, spec, document.get("signature_name", ""))
    form, inputs = rest_json.read_inputs(document, signature.dtypes)
    return rest_json.write_outputs(form, predict.run(signature, inputs))


def _signature(models: Models, spec: Any, name: str) -> Signature:
    """Refused in other words and with another status than over gRPC, as TensorFlow Serving does."""
    version = models.find(spec)
    if (name or DEFAULT) not in version.signatures:
        raise invalid(f'Serving signature name: "{name or DEFAULT}" not found in signature def')
    return version.signature(name)


def _absent(models: Models, spec: Any, body: bytes) -> bytes:
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
