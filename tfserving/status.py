"""Failures of requests: a gRPC status, the corresponding HTTP status, and a text.

The texts are the same as in TensorFlow Serving, for clients that search the texts of errors.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

import tensorflow as tf
from grpc import StatusCode

log = logging.getLogger("splitbench.serving")


class Refusal(Exception):
    """The status and text of the answer to a refused request. It never crosses the wire, so it is no `WireError`."""

    def __init__(self, code: StatusCode, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return f"{self.code.name}: {self.text}"


invalid: Callable[[str], Refusal] = partial(Refusal, StatusCode.INVALID_ARGUMENT)
not_found: Callable[[str], Refusal] = partial(Refusal, StatusCode.NOT_FOUND)
failed_precondition: Callable[[str], Refusal] = partial(Refusal, StatusCode.FAILED_PRECONDITION)
unimplemented: Callable[[str], Refusal] = partial(Refusal, StatusCode.UNIMPLEMENTED)

CODES: Mapping[int, StatusCode] = {code.value[0]: code for code in StatusCode}
"""Number of a TensorFlow error -> gRPC status; both use the same numbers."""


def of_exception(error: Exception) -> Refusal:
    """The refusal for an exception that a handler raised.

    The text of an unexpected exception is only logged, since it may contain paths.
    """
    if isinstance(error, Refusal):
        return error
    if isinstance(error, tf.errors.OpError):
        return Refusal(CODES.get(error.error_code, StatusCode.UNKNOWN), error.message)
    log.error("a request failed", exc_info=error)
    return Refusal(StatusCode.INTERNAL, f"{type(error).__name__}; the log of the server says more")


HTTP: Mapping[StatusCode, int] = {
    StatusCode.OK: 200,
    StatusCode.CANCELLED: 499,
    StatusCode.UNKNOWN: 500,
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.DEADLINE_EXCEEDED: 504,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.FAILED_PRECONDITION: 400,
    StatusCode.ABORTED: 409,
    StatusCode.OUT_OF_RANGE: 400,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.INTERNAL: 500,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DATA_LOSS: 500,
    StatusCode.UNAUTHENTICATED: 401,
}
"""gRPC status -> HTTP status (tensorflow_serving/model_servers/http_server.cc)."""
