"""The client of gRPC: channels that connections share, calls with deadlines, and the mapping of gRPC's errors.

Methods are bound by their path, as generated stubs bind them. Messages are serialised outside of gRPC, so that a
message that the codec refuses raises an error of splitbench instead of gRPC's INTERNAL. `grpc_server` is the other end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, Self

import grpc

from transports.address import Address
from transports.base import Connection, Message
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    ResourceExhausted,
    WireError,
)
from transports.grpc_options import GrpcOptions
from transports.grpc_server import CHUNKED, METHODS, READERS, READY, STALL, WRITERS, message_limits, target
from transports.grpc_stream import chunks, gather
from transports.limits import ENVELOPE, Limits
from transports.sockets import Deadline
from transports.tls import Tls

STATUS: Mapping[grpc.StatusCode, type[WireError]] = {
    grpc.StatusCode.OK: RemoteError,  # raised as an error: the call ended without an answer
    grpc.StatusCode.CANCELLED: ConnectionLost,
    grpc.StatusCode.UNKNOWN: RemoteError,
    grpc.StatusCode.INVALID_ARGUMENT: MalformedMessage,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.NOT_FOUND: RemoteError,
    grpc.StatusCode.ALREADY_EXISTS: RemoteError,
    grpc.StatusCode.PERMISSION_DENIED: RemoteError,
    grpc.StatusCode.UNAUTHENTICATED: RemoteError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,  # or `MessageTooLarge`: see `error_of`
    grpc.StatusCode.FAILED_PRECONDITION: RemoteError,
    grpc.StatusCode.ABORTED: ConnectionLost,
    grpc.StatusCode.UNIMPLEMENTED: RemoteError,
    grpc.StatusCode.OUT_OF_RANGE: RemoteError,
    grpc.StatusCode.INTERNAL: RemoteError,
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
    grpc.StatusCode.DATA_LOSS: MalformedMessage,
}
"""gRPC status -> the error of splitbench for it."""


CHANNEL_OPTIONS = (
    *STALL,
    ("grpc.use_local_subchannel_pool", 1),  # otherwise two channels of a process share one connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a call is sent once, as over every other transport
)
"""The options of every channel, in addition to its message limits."""


class Link:
    """A channel and the number of connections that use it. The last connection closes the channel."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.retired = False
        """Whether a failed call has made the channel unfit for new connections."""
        self._lock = threading.Lock()
        self._users = 1

    @classmethod
    def to(cls, address: Address, options: Limits, own: Tls | None, deadline: Deadline) -> Self:
        """A new channel with one user, to a server that has answered. Raises `ConnectError`."""
        arguments = (*message_limits(options), *CHANNEL_OPTIONS)
        if own is None:
            channel = grpc.insecure_channel(target(address), options=arguments)
        else:
            credentials = grpc.ssl_channel_credentials(own.ca, own.key, own.cert)
            channel = grpc.secure_channel(target(address), credentials, options=arguments)
        try:
            _await_ready(channel, address, deadline.left())
        except BaseException:
            channel.close()
            raise
        return cls(channel)

    def take(self) -> bool:
        """Count one more user, unless the channel is retired or closed. Returns whether the user was counted."""
        with self._lock:
            usable = self._users > 0 and not self.retired
            self._users += usable
            return usable

    def give_back(self, lost: bool = False) -> None:
        """Count one user less. `lost`: its call failed, so the channel is retired: it gets no new users, but the calls
        of its other users go on."""
        with self._lock:
            self.retired |= lost
            self._users -= 1
            last = self._users == 0
        if last and lost:
            # In a separate thread, since closing waits for a write that is stuck.
            threading.Thread(target=self.channel.close, name="grpc-close", daemon=True).start()
        elif last:
            self.channel.close()


def _await_ready(channel: grpc.Channel, address: Address, timeout: float) -> None:
    """Return when a server answers on `channel`, even if it answers that it is full.

    Raises `ConnectError`, at once if there is no server. This needs one call of a millisecond. gRPC's own
    `channel_ready_future` retries in silence until the timeout, and leaves a thread behind that makes closing the
    channel take 200 ms.
    """
    try:
        channel.unary_unary(READY, request_serializer=None, response_deserializer=None)(b"", timeout=timeout)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise ConnectError(f"no connection to {address}: {error.code().name}: {error.details()}") from None


class GrpcConnection(Connection):
    def __init__(self, link: Link, fresh: bool, address: Address, codec: str, options: GrpcOptions) -> None:
        super().__init__(address, options)
        self.fresh = fresh
        self._link = link
        self._codec = codec
        self._carry = SENDERS[options.send](link.channel, codec, options)

    def encode(self, message: Message) -> bytes:
        return WRITERS[self._codec](message)

    def exchange(self, request: bytes, deadline: Deadline) -> bytes | bytearray:
        try:
            return self._carry(request, deadline.left())
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise self._failed(error_of(error, self.address, deadline.given, ENVELOPE)) from None

    def decode(self, answer: bytes | bytearray) -> Message:
        return READERS[self._codec](answer, self.limits)

    def _failed(self, error: WireError) -> WireError:
        """`error` itself. Retires a channel that may be its cause: a channel with a silent peer stays open for ever."""
        if isinstance(error, (ConnectionLost, DeadlineExceeded)) and not self.closed:
            self.closed = True
            self._link.give_back(lost=True)
        return error

    def stale(self) -> bool:
        return self.closed or self._link.retired

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._link.give_back()


Carry = Callable[[bytes, float], bytes | bytearray]
"""(bytes of a request, timeout in seconds) -> bytes of the answer. Raises gRPC's errors."""

STUCK = 2**20
"""Size in bytes from which on a slow or frozen peer may not have received a message by its deadline. gRPC does not end
a call while it writes a piece of it, so the caller leaves such a call to a gRPC thread and waits until the deadline."""
LATE = 0.05
"""Seconds after the deadline within which gRPC ends every smaller call."""


def _whole(channel: grpc.Channel, codec: str, options: GrpcOptions) -> Carry:
    call = channel.unary_unary(METHODS[codec], request_serializer=None, response_deserializer=None)

    def carry(message: bytes, timeout: float) -> bytes:
        answer: bytes = ask(call, message, len(message), timeout)
        return answer

    return carry


def ask(call: grpc.UnaryUnaryMultiCallable[Any, Any], message: Any, size: int, timeout: float) -> Any:
    """The answer of `call` to `message`, which has about `size` bytes. Ends after `timeout` s whatever the peer does.

    Raises `grpc.RpcError` and `grpc.FutureTimeoutError`: see `error_of`.
    """
    if size < STUCK:
        return call(message, timeout=timeout)
    return call.future(message, timeout=timeout).result(timeout + LATE)


def _chunked(channel: grpc.Channel, codec: str, options: GrpcOptions) -> Carry:
    call = channel.stream_stream(CHUNKED[codec], request_serializer=None, response_deserializer=None)

    def carry(message: bytes, timeout: float) -> bytearray:
        answer = call(chunks(message, options.chunk), timeout=timeout)
        try:
            whole = gather(answer, options)
            for _ in answer:  # wait until the server ends the call, which frees the server's thread
                raise MalformedMessage("a chunk came after the end of its message")
            return whole
        finally:
            answer.cancel()  # type: ignore[no-untyped-call]  # no effect if the call has ended

    return carry


SENDERS: Mapping[str, Callable[[grpc.Channel, str, GrpcOptions], Carry]] = {"unary": _whole, "stream": _chunked}
"""`GrpcOptions.send` -> the function that makes a `Carry` over a channel."""


def error_of(
    error: grpc.RpcError | grpc.FutureTimeoutError, address: Address, timeout: float, beside: int = 0
) -> WireError:
    """The error of splitbench for an error of gRPC. `beside`: gRPC's message limit minus `max_message`, in bytes."""
    if isinstance(error, grpc.FutureTimeoutError):
        return DeadlineExceeded(f"{address} did not take the message within {timeout:.3g} s")
    code, details = error.code(), error.details() or ""
    sizes = re.search(r"larger than max \((\d+) vs\. (\d+)\)", details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and sizes:
        limit = int(sizes[2]) - beside
        return MessageTooLarge(
            f"a message of {sizes[1]} bytes to or from {address} is above the limit of {limit} bytes"
        )
    return STATUS[code](f"{address}: {code.name}: {details}")
