"""The steps of a server that all transports share: read, check, handle and answer one request."""

from __future__ import annotations

import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from transports.base import Handler, Message, as_wire_error, check_message, failure
from transports.errors import ConnectionLost, ResourceExhausted, WireError
from transports.limits import Limits
from transports.spans import RECORDER, TRACEPARENT, context_of

Came = TypeVar("Came")
Sent = TypeVar("Sent")
"""The form from which a codec reads a message, and the form that it writes: bytes, or nested tuples."""


def answer(handler: Handler, message: Message) -> Message:
    """The handler's answer, or an error message for the exception that it raised.

    The text of an unexpected exception does not cross the wire: it may hold paths.
    """
    try:
        return handler(message)
    except Exception as error:
        return failure(as_wire_error(error))


class Guarded(Protocol):
    """A handler with a second argument: `gone()` is True once the caller has given up."""

    def __call__(self, message: Message, gone: Callable[[], bool] = ..., /) -> Message: ...


def never() -> bool:
    """The `gone` of a caller whose end cannot be observed."""
    return False


def respond(
    handler: Guarded,
    request: Came,
    read: Callable[[Came], Message],
    write: Callable[[Message], Sent],
    gone: Callable[[], bool] = never,
) -> Sent:
    """Read one request, answer it and write the answer, as every server does. Raises no `WireError`."""
    began = time.perf_counter()  # whether the request is traced is known once it is read
    try:
        message = read(request)
        if TRACEPARENT in message.fields:
            return _traced(handler, message, write, gone, began)
        return write(_handled(handler, message, gone))
    except WireError as error:
        return write(failure(error))


def _handled(handler: Guarded, message: Message, gone: Callable[[], bool]) -> Message:
    try:
        return handler(message, gone)
    except Exception as error:
        return failure(as_wire_error(error))


def _traced(
    handler: Guarded,
    message: Message,
    write: Callable[[Message], Sent],
    gone: Callable[[], bool],
    began: float,
) -> Sent:
    """`respond` with a message that was read since `began`: a span, with its steps; the handler adds its own."""
    moments = [began, time.perf_counter()]
    try:
        reply = _handled(handler, message, gone)
        moments.append(time.perf_counter())
        return write(reply)
    finally:
        moments.append(time.perf_counter())
        RECORDER.add_parts(message.fields[TRACEPARENT], "serve", moments, what=message.method)


def guard(handler: Handler, limits: Limits, workers: int) -> Guarded:
    """`handler` behind the checks that all servers share.

    It raises `ResourceExhausted` at once if `workers` calls are in progress (or waits: `Limits.when_full`),
    `MessageTooLarge` for a request or an answer above the limit, and `ConnectionLost` for a call whose caller has given
    up before it begins.
    """
    wait = limits.when_full == "wait"
    free: SimpleQueue[None] = SimpleQueue()
    for _ in range(workers):
        free.put(None)

    def guarded(message: Message, gone: Callable[[], bool] = never, /) -> Message:
        check_message(message, limits)
        try:
            _take(free, message, wait)
        except Empty:
            text = f"all {workers} workers of the server are busy; {message.method!r} was not begun"
            raise ResourceExhausted(text) from None
        try:
            if gone():
                raise ConnectionLost(f"the caller of {message.method!r} has given up; it was not begun")
            reply = handler(message)
        finally:
            free.put(None)
        return check_message(reply, limits)

    return guarded


def _take(free: SimpleQueue[None], message: Message, wait: bool) -> None:
    """Take a worker, and record how long a traced message waited for one. Raises `Empty`."""
    if wait and (context := context_of(message.fields)):
        RECORDER.timed(context, "queue", free.get)
    else:
        free.get(wait)
