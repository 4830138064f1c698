"""How a model server says that a request failed: a gRPC status, the HTTP status that stands for it, and a text.

The texts say what those of TensorFlow Serving say, so that a client that looks for them finds them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

import tensorflow as tf
from grpc import StatusCode

log = logging.getLogger("splitbench.serving")


class Refusal(Exception):
    """A request that is answered with an error. Not of `transports.errors`: it never leaves a server as an object."""

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
"""TensorFlow numbers its errors as gRPC does."""


def of_exception(error: Exception) -> Refusal:
    """What a request is answered with where handling it raised `error`.

    The text of an error that nobody meant to raise stays at this end: it may hold paths.
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
"""The HTTP status by which the REST interface gives each (tensorflow_serving/model_servers/http_server.cc)."""
