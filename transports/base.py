"""The contract of a transport: everything that an implementer must read.

A transport carries a `Message` (a method, small scalar fields, named tensors) to a handler in another process and
brings the handler's answer back. It serves a handler at an address and connects to a served one. It knows nothing of
models, plans and flows.

Rules:
  - A codec writes C-contiguous arrays of the dtypes in `DTYPES`, and calls `check_tensor` before it allocates memory
    for a tensor that a peer sent.
  - A server answers in the codec of the request, turns an exception of its handler into an error message, and refuses
    messages above its limit and calls for which no worker is free (`serving`).
  - When an error message arrives, `Connection.call` raises its error in the caller.
  - The module of a transport imports its library inside functions: reading the title of `grpc` must not import gRPC.
  - No transport imports TensorFlow.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar, Self

import ml_dtypes
import msgspec
import numpy as np
from numpy.typing import NDArray

from transports.address import Address
from transports.errors import (
    ConnectionLost,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    UsageError,
    WireError,
    from_kind,
    suggest,
)
from transports.limits import NAME, PARTS, TEXT, Limits
from transports.sockets import Deadline
from transports.spans import RECORDER, TRACEPARENT

log = logging.getLogger("splitbench.transports")

Scalar = str | int | float | bool
Array = NDArray[np.generic]
ARRAYS = (np.ndarray, np.generic)  # the classes of an `Array` at run time, for `isinstance`
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    name: np.dtype(name)
    for name in (
        *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
        *("float16", "float32", "float64", "complex64", "complex128"),
    )
} | {name: np.dtype(getattr(ml_dtypes, name)) for name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")}
"""Every dtype that a tensor may have on the wire, by its name. Object and string dtypes are excluded because a reader
could not check their contents, and int4 because its bytes depend on the implementation."""


class Message(msgspec.Struct, frozen=True):
    """A method, small scalar fields, and tensors by name."""

    method: str
    fields: Mapping[str, Scalar] = msgspec.field(default_factory=dict)
    tensors: Mapping[str, Array] = msgspec.field(default_factory=dict)

    @property
    def payload(self) -> int:
        """Bytes of all tensors, without the bytes that a codec adds."""
        return payload(self.tensors)


def payload(tensors: Mapping[str, Array]) -> int:
    """Bytes of all `tensors`."""
    return sum(map(attrgetter("nbytes"), tensors.values()))


Handler = Callable[[Message], Message]


class _Closed(ABC):
    @abstractmethod
    def close(self) -> None:
        """Close this object; the end of a `with` block calls `close`. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class Server(_Closed):
    """Serves a handler at `address`. Call `close` at the end, or use the server as a context manager."""

    address: Address

    @abstractmethod
    def drain(self, seconds: float) -> None:
        """Accept no more calls, and wait up to `seconds` until the answers to calls in progress are sent."""

    @abstractmethod
    def close(self) -> None:
        """Accept no more calls; close the port and every connection. Idempotent."""


class Connection(_Closed):
    """A connection to a handler, for one thread at a time. `transports.pool` hands connections out.

    Each transport implements `encode`, `exchange` and `decode`; `call` runs them in this order for all transports.
    """

    closed: bool = False
    """Whether `close` was called or a failure has made the connection unusable."""
    fresh: bool = True
    """Whether a network link was opened for this connection; False if it shares the link of other connections."""

    def __init__(self, address: Address, limits: Limits) -> None:
        self.address = address
        self.limits = limits

    def call(self, message: Message, timeout: float) -> Message:
        """Send `message`, wait at most `timeout` seconds, and return the answer.

        Raises a `WireError`, either from the transport or from the handler at the other end. After a
        `DeadlineExceeded` or `ConnectionLost` the connection must not be used again.
        """
        if self.closed:
            raise ConnectionLost(f"the connection to {self.address} is closed")
        deadline = Deadline.after(timeout)
        if TRACEPARENT in message.fields:
            return self._traced(message, deadline)
        # No variable holds what was sent or received, whose memory later steps can use then.
        reply = self.decode(self.exchange(self.encode(check_message(message, self.limits)), deadline))
        return check_message(raise_error(reply), self.limits)

    def _traced(self, message: Message, deadline: Deadline) -> Message:
        """`call` for a traced message: the same steps, whose times are recorded as spans (`transports.spans`)."""
        moments = [time.perf_counter()]
        try:
            request = self.encode(check_message(message, self.limits))
            moments.append(time.perf_counter())
            answer = self.exchange(request, deadline)
            moments.append(time.perf_counter())
            return check_message(raise_error(self.decode(answer)), self.limits)
        finally:
            moments.append(time.perf_counter())
            RECORDER.add_parts(message.fields[TRACEPARENT], "call", moments)

    @abstractmethod
    def encode(self, message: Message) -> Any:
        """`message` in the form that `exchange` sends. Raises `MalformedMessage` for values that cannot be written."""

    @abstractmethod
    def exchange(self, request: Any, deadline: Deadline) -> Any:
        """Send `request` and return the answer, not decoded. Maps the library's errors to `WireError`."""

    @abstractmethod
    def decode(self, answer: Any) -> Message:
        """The message in `answer`. Raises `MalformedMessage` and `MessageTooLarge`."""

    def stale(self) -> bool:
        """Whether the peer has closed the connection, as far as this end can tell without a call."""
        return self.closed


class Transport(ABC):
    """Serves handlers and connects to them. A process makes one instance of each transport, from its options.

    The class attributes describe the transport. Tests and reports select transports by these attributes, never by name.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    """The transport's name in tables."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Imported package -> its name for `pip install`."""
    codecs: ClassVar[tuple[str, ...]] = ("raw",)
    """The forms in which the transport can write tensors. The first is the default."""
    secure: ClassVar[str] = ""
    """The protection that the transport supports if the options name keys: "tls", "curve", or "" for none."""
    addressing: ClassVar[str] = "host:port"
    """What an `Address` means: "host:port", "path" (a Unix socket that the port names), or "in-process"."""
    crosses_network: ClassVar[bool] = True
    """Whether the two ends may be on two machines."""
    in_memory: ClassVar[bool] = False
    """Whether large tensors cross in shared memory, beside the socket."""
    shares_links: ClassVar[bool] = False
    """Whether the calls of all threads share one network link, which the library reopens when the peer comes back."""
    Options: ClassVar[type[Limits]] = Limits

    def __init__(self, options: Limits | None = None) -> None:
        """Raises `UsageError` for TLS files where the transport has no TLS."""
        self.options = options if options is not None else self.Options()
        if self.options.tls and self.secure != "tls" and self.addressing != "in-process":
            raise UsageError(
                f"tls_cert: transport {self.name!r} has no TLS; leave the TLS files out, or take another one"
            )

    @abstractmethod
    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        """Serve `handler` at `host`:`port` (0: a free port), with at most `workers` calls at a time.

        Raises `ConnectError` when the port cannot be bound.
        """

    @abstractmethod
    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        """Connect to `address`, waiting at most `timeout` seconds. Raises `ConnectError`.

        With `shared`, a transport that `shares_links` may use the network link of another connection.
        """

    def check_codec(self, codec: str) -> str:
        """`codec`, or the default codec for "". Raises `UsageError` if the transport does not have `codec`."""
        if codec and codec not in self.codecs:
            raise UsageError(f"transport {self.name!r} has no codec {codec!r}{suggest(codec, self.codecs)}")
        return codec or self.codecs[0]


def as_wire_error(error: Exception) -> WireError:
    """`error` itself if it is a `WireError`; else a `RemoteError` that names its type only. The log has the details."""
    if isinstance(error, WireError):
        return error
    log.error("a handler failed", exc_info=error)
    return RemoteError(f"the handler failed with {type(error).__name__}; the log of its process says more")


def failure(error: WireError) -> Message:
    """The message that carries `error` to the caller."""
    return Message("error", {"kind": error.kind, "text": str(error)})


def raise_error(reply: Message) -> Message:
    """`reply` itself. Raises the error if `reply` is an error message."""
    if reply.method == "error":
        raise from_kind(str(reply.fields.get("kind")), str(reply.fields.get("text")))
    return reply


def check_message(message: Message, limits: Limits) -> Message:
    """`message` itself, after checking it against `limits`.

    Raises `MalformedMessage` for a tensor that is no array, and `MessageTooLarge` for tensors above `max_message`
    bytes and for more names and text than `PARTS`, `NAME` and `TEXT` allow.
    """
    size = 0
    for name, tensor in message.tensors.items():
        if not isinstance(tensor, ARRAYS):
            raise MalformedMessage(f"tensor {name!r} must be a numpy array, and is a {type(tensor).__name__}")
        size += tensor.nbytes
    words = [message.method, *message.fields, *message.tensors]
    if message.fields:
        words += [value for value in message.fields.values() if isinstance(value, str)]
    try:
        short = len("".join(words)) <= NAME and len(words) <= PARTS
    except TypeError:  # a name that is not a string; the codec refuses it later
        short = False
    if not short:
        _check_description(message)
    if size > limits.max_message:
        what = f"the tensors of {message.method!r} take {size} bytes"
        raise MessageTooLarge(f"{what}, above the limit of {limits.max_message} bytes")
    return message


def _check_description(message: Message) -> None:
    """Check names and text against `PARTS`, `NAME` and `TEXT`. Raises `MessageTooLarge`."""
    names = [name for name in (message.method, *message.fields, *message.tensors) if isinstance(name, str)]
    text = [*names, *(value for value in message.fields.values() if isinstance(value, str))]
    for what, size, limit in (
        ("fields", len(message.fields), PARTS),
        ("tensors", len(message.tensors), PARTS),
        ("characters in one name", max(map(len, names), default=0), NAME),
        ("characters of names and text", sum(map(len, text)), TEXT),
    ):
        if size > limit:
            raise MessageTooLarge(f"{str(message.method)[:NAME]!r} has {size} {what}, above the limit of {limit}")


def check_tensor(name: str, dtype: str, shape: Sequence[int], nbytes: int) -> np.dtype[np.generic]:
    """The dtype of a tensor that is about to be built from `nbytes` bytes that a peer sent.

    Raises `MalformedMessage` for an unknown dtype, a negative or non-integer extent, or a size that does not fit.
    """
    kind = DTYPES.get(dtype)
    if kind is None:
        raise MalformedMessage(f"tensor {name!r}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    expected = kind.itemsize
    for extent in shape:
        if type(extent) is not int:  # the error text omits `repr(extent)`, which over RPyC would call the peer back
            raise MalformedMessage(f"tensor {name!r}: an extent must be an int, and is a {type(extent).__name__}")
        if extent < 0 or len(shape) > 32:
            raise MalformedMessage(f"tensor {name!r}: {tuple(shape)!r} is no shape")
        expected *= extent
    if nbytes != expected:
        raise MalformedMessage(f"tensor {name!r}: {dtype}{list(shape)} takes {expected} bytes, {nbytes} came")
    return kind
