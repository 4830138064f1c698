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
"""The form that a codec reads (`Came`), and the form that it writes (`Sent`): bytes, or nested tuples."""


def answer(handler: Handler, message: Message) -> Message:
    """The handler's answer, or an error message for the exception that the handler raised.

    The text of an unexpected exception does not cross the wire, since it may contain paths.
    """
    try:
        return handler(message)
    except Exception as error:
        return failure(as_wire_error(error))


class Guarded(Protocol):
    """A handler with a second argument, `gone`, a function that returns True once the caller has given up."""

    def __call__(self, message: Message, gone: Callable[[], bool] = ..., /) -> Message: ...


def never() -> bool:
    """The `gone` argument for a transport that cannot observe whether the caller has given up."""
    return False


def respond(
    handler: Guarded,
    request: Came,
    read: Callable[[Came], Message],
    write: Callable[[Message], Sent],
    gone: Callable[[], bool] = never,
) -> Sent:
    """Read one request, answer it and write the answer, as every server does. Raises no `WireError`."""
    began = time.perf_counter()  # for every request: whether it is traced is known only after reading it
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
    """The rest of `respond` for a traced message that was read since `began`; records a span for each step."""
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

    If `workers` calls are in progress, another call raises `ResourceExhausted` at once, or waits (`Limits.when_full`).
    A request or an answer above the limit raises `MessageTooLarge`, and a call whose caller has given up before the
    handler begins raises `ConnectionLost`.
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
    """Take a free worker, and record how long a traced message waited for it. Raises `Empty` if all are busy."""
    if wait and (context := context_of(message.fields)):
        RECORDER.timed(context, "queue", free.get)
    else:
        free.get(wait)
