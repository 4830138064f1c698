"""The steps of a server that all transports share: read, check, handle and answer one request."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Protocol, TypeVar

from transports.base import Handler, Message, as_wire_error, check_message, failure
from transports.errors import ConnectionLost, ResourceExhausted, WireError
from transports.limits import Limits

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
    try:
        message = read(request)
        try:
            reply = handler(message, gone)
        except Exception as error:
            reply = failure(as_wire_error(error))
        return write(reply)
    except WireError as error:
        return write(failure(error))


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
            free.get(wait)
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
