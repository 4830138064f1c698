"""The serving end of REST.

    POST /v1/json, /v1/json-b64     a message (`json_codec`), answered by one in the same codec
    GET  /v1/ready                  {"codecs": [...]} as soon as calls are accepted

Rules:
  - The path names the codec. An error is a message too; its kind gives the status (`STATUS`).
  - The header `Splitbench-Payload` is the size of a message's tensors in bytes. If it is above the server's limit, the
    server keeps nothing of the body. If it is missing or wrong, the limits of body and message apply.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import orjson

from transports import json_codec
from transports.base import Message
from transports.errors import MalformedMessage, MessageTooLarge, WireError
from transports.http_server import Head, Reply
from transports.limits import Limits
from transports.serving import Guarded, never, respond

READY = "/v1/ready"
PATHS: Mapping[str, str] = {"json": "/v1/json", "json-b64": "/v1/json-b64"}
"""Codec -> the path whose requests and answers use it."""
IS_READY = orjson.dumps({"codecs": list(PATHS)})
CODECS: Mapping[str, str] = {path: codec for codec, path in PATHS.items()}

PAYLOAD = "Splitbench-Payload"

STATUS: Mapping[str, int] = {
    "connect": 502,
    "connection-lost": 502,
    "deadline": 504,
    "too-large": 413,
    "malformed": 400,
    "exhausted": 503,
    "remote": 500,
}
"""Kind of an error -> its HTTP status, for clients that know only HTTP; 500 for a kind that is not listed."""


def heading(message: Message) -> dict[str, str]:
    """The header that announces the size of `message`."""
    return {PAYLOAD: str(message.payload)}


def body_limit(headers: Mapping[str, str], codec: str, limits: Limits) -> int:
    """The largest body in bytes for `codec` and `headers`. Raises `MessageTooLarge` and `MalformedMessage`."""
    announced = headers.get(PAYLOAD.lower(), "0")
    if not announced.isdecimal() or len(announced) > 18:
        raise MalformedMessage(f"{PAYLOAD} must be a number of bytes, and is {announced[:40]!r}")
    if int(announced) > limits.max_message:
        raise MessageTooLarge(f"tensors of {announced} bytes are above the limit of {limits.max_message} bytes")
    return json_codec.most(codec, limits)


class Messages:
    """The `http_server.Application` that hands messages to a handler."""

    def __init__(self, guarded: Guarded, options: Limits) -> None:
        self._handler = guarded
        self._options = options
        self._read = partial(json_codec.read, limits=options)

    def admit(self, head: Head) -> int | Reply:
        if (head.method, head.path) == ("GET", READY):
            return Reply(200, IS_READY)
        if head.method == "POST" and head.path in CODECS:
            return body_limit(head.headers, CODECS[head.path], self._options)
        valid = ", ".join(["GET " + READY, *(f"POST {path}" for path in CODECS)])
        return Reply(404, self.refusal(MalformedMessage(f"no {head.method} {head.path} (valid: {valid})")).body)

    def answer(self, head: Head, body: bytearray) -> Reply:
        # Other HTTP clients may close their end and still read the answer. Clients of splitbench, which send the
        # header, do not.
        gone = head.gone if PAYLOAD.lower() in head.headers else never
        return respond(self._handler, body, self._read, partial(_written, codec=CODECS[head.path]), gone)

    def refusal(self, error: WireError) -> Reply:
        return _written(Message("error", {"kind": error.kind, "text": str(error)}), "json")


def _written(message: Message, codec: str) -> Reply:
    status = STATUS.get(str(message.fields.get("kind")), 500) if message.method == "error" else 200
    return Reply(status, json_codec.write(message, codec), heading(message))
