"""The contract of a transport: everything that an implementer must read.

A transport carries a `Message` (a method, small scalar fields, named tensors) to a handler in another process and
brings its answer back. It *serves* a handler at an address and *connects* to one; nothing else. It knows no model,
no plan and no flow.

Rules:
  - A tensor is a C-contiguous `numpy.ndarray` of a dtype in `DTYPES` by the time that it meets a codec; what arrives is
    checked by `check_tensor` before memory is taken for it.
  - A handler never raises across the wire: `answer` turns what it raises into an error message, and `Connection.call`
    raises that again at the caller's side (`raise_error`).
  - A server answers in the codec in which it was asked (`respond`), refuses what is above its limit and what it has no
    worker for (`guard`).
  - Nothing here or in any transport imports TensorFlow.
"""

from __future__ import annotations

import logging
import math
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol, Self, TypeVar

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from transports.address import Address
from transports.errors import (
    ConnectionLost,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    ResourceExhausted,
    UsageError,
    WireError,
    from_kind,
    suggest,
)
from transports.limits import NAME, PARTS, TEXT, Limits

log = logging.getLogger("splitbench.transports")

Scalar = str | int | float | bool
Array = NDArray[np.generic]
Came = TypeVar("Came")
Sent = TypeVar("Sent")
"""What a codec reads a message from and makes of it: bytes, or nested tuples."""

DTYPES: Mapping[str, np.dtype[np.generic]] = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
"""Every dtype that a tensor may have on the wire, by its name. No object, no string: nothing that could carry code."""


@dataclass(frozen=True, slots=True)
class Message:
    """A method, small scalar fields, and tensors by name."""

    method: str
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    tensors: Mapping[str, Array] = field(default_factory=dict)

    @property
    def payload(self) -> int:
        """Bytes of all tensors, without what a codec adds."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


Handler = Callable[[Message], Message]


class Server(ABC):
    """A handler being served. Close it, or use it as a context manager."""

    address: Address

    @abstractmethod
    def drain(self, seconds: float) -> None:
        """Take no more calls, and wait up to `seconds` until the answers to those under way are out."""

    @abstractmethod
    def close(self) -> None:
        """Take no more calls, let go of the port and of every connection. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Connection(ABC):
    """One way to a handler. Used by one thread at a time; `transports.pool` hands them out."""

    closed: bool = False
    """Whether `close` was called or a failure has made the connection unusable."""

    @abstractmethod
    def call(self, message: Message, timeout: float) -> Message:
        """Carry `message` over, wait at most `timeout` seconds, and return the answer.

        Raises a `WireError`: the transport's own, or the one that the handler raised. After a `DeadlineExceeded` or
        `ConnectionLost` the connection is not to be used again.
        """

    def stale(self) -> bool:
        """Whether the peer has gone meanwhile, as far as can be told without a call."""
        return self.closed

    @abstractmethod
    def close(self) -> None:
        """Let go of the connection. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Transport(ABC):
    """Serves handlers and connects to them. Made once for each process from its options."""

    name: ClassVar[str]
    codecs: ClassVar[tuple[str, ...]] = ("raw",)
    """How it can write tensors into a message. The first is its own, where nobody asks for another."""
    local: ClassVar[bool] = False
    """Whether the handler runs in the caller's own process and thread: no codec, no workers, no deadline."""
    Options: ClassVar[type[Limits]] = Limits

    def __init__(self, options: Limits | None = None) -> None:
        self.options = options if options is not None else self.Options()

    @abstractmethod
    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        """Serve `handler` at `host`:`port` (0: a free one), with at most `workers` calls at a time.

        Raises `ConnectError` when the port cannot be bound.
        """

    @abstractmethod
    def connect(self, address: Address, codec: str = "", timeout: float = 10.0) -> Connection:
        """Connect to `address`, waiting at most `timeout` seconds. Raises `ConnectError`."""

    def check_codec(self, codec: str) -> str:
        """`codec`, or the transport's own for "". Raises `UsageError` for one that the transport does not have."""
        if codec and codec not in self.codecs:
            raise UsageError(f"transport {self.name!r} has no codec {codec!r}{suggest(codec, self.codecs)}")
        return codec or self.codecs[0]


def answer(handler: Handler, message: Message) -> Message:
    """The handler's answer, or the error message that stands for what it raised.

    The text of an error that nobody meant to raise stays at this end: it may hold paths.
    """
    try:
        return handler(message)
    except Exception as error:
        return _failure(as_wire_error(error))


def as_wire_error(error: Exception) -> WireError:
    """`error` itself where it may cross the wire; else one that says only its type, and the log has the rest."""
    if isinstance(error, WireError):
        return error
    log.error("a handler failed", exc_info=error)
    return RemoteError(f"the handler failed with {type(error).__name__}; the log of its process says more")


def _failure(error: WireError) -> Message:
    return Message("error", {"kind": error.kind, "text": str(error)})


def raise_error(reply: Message) -> Message:
    """`reply` itself, unless it stands for an error, which is then raised."""
    if reply.method == "error":
        raise from_kind(str(reply.fields.get("kind")), str(reply.fields.get("text")))
    return reply


def respond(handler: Handler, request: Came, read: Callable[[Came], Message], write: Callable[[Message], Sent]) -> Sent:
    """All that a server does with one call: read it, answer it, write the answer. Never raises a `WireError`."""
    try:
        return write(answer(handler, read(request)))
    except WireError as error:
        return write(_failure(error))


class Guarded(Protocol):
    """A handler that is told how to find out whether the caller is `gone`: nobody would take the answer."""

    def __call__(self, message: Message, gone: Callable[[], bool] = lambda: False) -> Message: ...


def guard(handler: Handler, limits: Limits, workers: int) -> Guarded:
    """`handler` behind the refusals that all servers share.

    It raises `ResourceExhausted` for a call beyond the `workers` that are being handled (`Limits.when_full`), at once
    and without waiting, `MessageTooLarge` for a request or an answer above the limit, and `ConnectionLost` for a call
    that nobody waits for any more: its caller's deadline has passed while it lay here, or waited for a worker.
    """
    free = threading.BoundedSemaphore(workers)

    def guarded(message: Message, gone: Callable[[], bool] = lambda: False) -> Message:
        check_message(message, limits)
        if not free.acquire(blocking=limits.when_full == "wait"):
            raise ResourceExhausted(f"all {workers} workers of the server are busy; {message.method!r} was not begun")
        try:
            if gone():
                raise ConnectionLost(f"nobody waits for {message.method!r} any more; it was not begun")
            reply = handler(message)
        finally:
            free.release()
        return check_message(reply, limits)

    return guarded


def check_message(message: Message, limits: Limits) -> Message:
    """`message` itself.

    Raises `MalformedMessage` for a tensor that is no array, `MessageTooLarge` for a payload above the limit and for
    more names and text than any message of ours has.
    """
    _check_description(message)
    for name, tensor in message.tensors.items():
        if not isinstance(tensor, (np.ndarray, np.generic)):
            raise MalformedMessage(f"tensor {name!r} must be a numpy array, and is a {type(tensor).__name__}")
    if (size := message.payload) > (limit := limits.max_message):
        raise MessageTooLarge(f"the tensors of {message.method!r} take {size} bytes, above the limit of {limit} bytes")
    return message


def _check_description(message: Message) -> None:
    """What describes the tensors, against `PARTS`, `NAME` and `TEXT`."""
    names = [message.method, *message.fields, *message.tensors]
    text = [len(value) for value in (*names, *message.fields.values()) if isinstance(value, str)]
    longest = max((len(name) for name in names if isinstance(name, str)), default=0)
    for what, size, limit in (
        ("fields", len(message.fields), PARTS),
        ("tensors", len(message.tensors), PARTS),
        ("characters in one name", longest, NAME),
        ("characters of names and text", sum(text), TEXT),
    ):
        if size > limit:
            raise MessageTooLarge(f"{str(message.method)[:NAME]!r} has {size} {what}, above the limit of {limit}")


def check_tensor(name: str, dtype: str, shape: Sequence[int], nbytes: int) -> np.dtype[np.generic]:
    """The dtype of a tensor that is about to be built from `nbytes` bytes of a peer.

    Raises `MalformedMessage` for an unknown dtype, a negative or non-integer extent, or a size that does not fit.
    """
    if dtype not in DTYPES:
        raise MalformedMessage(f"tensor {name!r}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if len(shape) > 32 or any(type(extent) is not int or extent < 0 for extent in shape):
        raise MalformedMessage(f"tensor {name!r}: {tuple(shape)!r} is no shape")
    expected = math.prod(shape) * DTYPES[dtype].itemsize
    if nbytes != expected:
        raise MalformedMessage(f"tensor {name!r}: {dtype}{list(shape)} takes {expected} bytes, {nbytes} came")
    return DTYPES[dtype]
