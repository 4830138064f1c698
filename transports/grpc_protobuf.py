"""gRPC: calls that carry `splitbench.proto`, each message whole or in chunks.

Callables are bound by their path instead of a generated `_pb2_grpc`: the codec makes and reads the bytes itself, so
that what it refuses becomes an answer of ours and not gRPC's INTERNAL. `grpc_server` is the other end.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import grpc

from transports import protobuf_codec, tls
from transports.address import Address
from transports.base import Connection, Handler, Message, Server, Transport, check_message, raise_error
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    ResourceExhausted,
    UsageError,
    WireError,
    suggest,
)
from transports.grpc_server import CHUNKED, METHODS, READY, STALL, GrpcServer, message_limits, target
from transports.grpc_stream import chunks, gather
from transports.limits import ENVELOPE, Limits
from transports.protobuf_wire import Part

SENDS = ("unary", "stream")
LEAST_CHUNK, MOST_CHUNK = 2**10, 2**26

STATUS: Mapping[grpc.StatusCode, type[WireError]] = {
    grpc.StatusCode.OK: RemoteError,  # an OK that is raised is no answer
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
"""Every status that gRPC knows -> the error that it is here."""


@dataclass(frozen=True)
class GrpcOptions(Limits):
    """What gRPC has of its own. A server takes both kinds of call, whatever it sends itself."""

    send: str = "unary"
    """How a client sends a message, and has it answered: whole (`unary`) or in chunks (`stream`). Chunks win
    for large messages: `python -m experiments.sizes --transport grpc` says from which size on a machine."""
    chunk: int = 2**20
    """Bytes of a message in a chunk, at either end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.send not in SENDS:
            raise UsageError(f"send: {self.send!r} is no way to send a message{suggest(self.send, SENDS)}")
        if not LEAST_CHUNK <= self.chunk <= MOST_CHUNK:
            raise UsageError(f"chunk: {self.chunk} is out of range; valid: {LEAST_CHUNK} to {MOST_CHUNK} bytes")


class GrpcProtobuf(Transport):
    """gRPC over HTTP/2, with mutual TLS where the options name its files."""

    name = "grpc"
    codecs = tuple(METHODS)
    Options = GrpcOptions
    options: GrpcOptions

    def __init__(self, options: Limits | None = None) -> None:
        own = options if isinstance(options, GrpcOptions) else GrpcOptions(**vars(options or Limits()))
        super().__init__(own)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        return GrpcServer(handler, Address(host, port), workers, self.options, self.options.chunk, self._tls)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0) -> Connection:
        codec = self.check_codec(codec)
        channel = self._channel(address)
        try:
            _await_ready(channel, address, timeout)
        except BaseException:
            channel.close()
            raise
        return GrpcConnection(channel, address, codec, self.options)

    def _channel(self, address: Address) -> grpc.Channel:
        options = (*message_limits(self.options), *CHANNEL_OPTIONS)
        if self._tls is None:
            return grpc.insecure_channel(target(address), options=options)
        credentials = grpc.ssl_channel_credentials(self._tls.ca, self._tls.key, self._tls.cert)
        return grpc.secure_channel(target(address), credentials, options=options)


CHANNEL_OPTIONS = (
    *STALL,
    ("grpc.use_local_subchannel_pool", 1),  # or two channels of a process share one connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a call is sent once, as over every other transport
)
"""Of every channel to whomever, beside the largest messages that it takes."""


def _await_ready(channel: grpc.Channel, address: Address, timeout: float) -> None:
    """Return when a server answers on `channel`, if only that it is full. Raises `ConnectError`, at once if nobody is.

    A call finds that out in a millisecond; gRPC's own `channel_ready_future` retries in silence until the timeout, and
    leaves a thread behind that makes closing the channel take 200 ms.
    """
    try:
        channel.unary_unary(READY, request_serializer=None, response_deserializer=None)(b"", timeout=timeout)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            raise ConnectError(f"no connection to {address}: {error.code().name}: {error.details()}") from None


class GrpcConnection(Connection):
    def __init__(self, channel: grpc.Channel, address: Address, codec: str, options: GrpcOptions) -> None:
        self._channel = channel
        self._address = address
        self._codec = codec
        self._options = options
        self._carry = CARRIERS[options.send](channel, codec, options)

    def call(self, message: Message, timeout: float) -> Message:
        if self.closed:
            raise ConnectionLost(f"the connection to {self._address} is closed")
        request = protobuf_codec.parts(check_message(message, self._options), self._codec)
        try:
            reply = self._carry(request, timeout)
        except (grpc.RpcError, grpc.FutureTimeoutError) as error:
            raise self._lost(error_of(error, self._address, timeout, ENVELOPE)) from None
        return check_message(raise_error(protobuf_codec.read(reply, self._options)), self._options)

    def _lost(self, error: WireError) -> WireError:
        """`error`; the channel is closed where it may be the cause: a silent one stays open, and silent, for ever."""
        if isinstance(error, (ConnectionLost, DeadlineExceeded)) and not self.closed:
            self.closed = True
            # Not by this thread: where a write is stuck, closing waits for its end.
            threading.Thread(target=self._channel.close, name="grpc-close", daemon=True).start()
        return error

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._channel.close()


Carry = Callable[[list[Part], float], Part]
"""The bytes of a request, in pieces, and seconds -> the bytes of its answer. Raises gRPC's errors."""

STUCK = 2**20
"""Bytes of a message from which on a slow or frozen peer may not have taken it by its deadline. gRPC ends no call while
a piece of it is being written: a thread that must not wait for that leaves the call to one of gRPC's."""
LATE = 0.05
"""Seconds after the deadline by which gRPC has ended every other call."""


def _whole(channel: grpc.Channel, codec: str, options: GrpcOptions) -> Carry:
    call = channel.unary_unary(METHODS[codec], request_serializer=None, response_deserializer=None)

    def carry(parts: list[Part], timeout: float) -> bytes:
        message = b"".join(parts)
        answer: bytes = ask(call, message, len(message), timeout)
        return answer

    return carry


def ask(call: grpc.UnaryUnaryMultiCallable[Any, Any], message: Any, size: int, timeout: float) -> Any:
    """The answer of `call` to `message`, which takes about `size` bytes, in `timeout` seconds whatever the peer does.

    Raises `grpc.RpcError` and `grpc.FutureTimeoutError`: see `error_of`.
    """
    if size < STUCK:
        return call(message, timeout=timeout)
    return call.future(message, timeout=timeout).result(timeout + LATE)


def _chunked(channel: grpc.Channel, codec: str, options: GrpcOptions) -> Carry:
    call = channel.stream_stream(CHUNKED[codec], request_serializer=None, response_deserializer=None)

    def carry(parts: list[Part], timeout: float) -> bytearray:
        answer = call(chunks(parts, options.chunk), timeout=timeout)
        try:
            whole = gather(answer, options)
            for _ in answer:  # the call is over when the server says so: until then it holds one of its threads
                raise MalformedMessage("a chunk came after the end of its message")
            return whole
        finally:
            answer.cancel()  # type: ignore[no-untyped-call]  # does nothing to one that is over

    return carry


CARRIERS: Mapping[str, Callable[[grpc.Channel, str, GrpcOptions], Carry]] = {"unary": _whole, "stream": _chunked}
"""`GrpcOptions.send` -> what makes a way to carry messages over a channel."""


def error_of(
    error: grpc.RpcError | grpc.FutureTimeoutError, address: Address, timeout: float, beside: int = 0
) -> WireError:
    """The one place where what gRPC raises becomes an error of ours. `beside`: what its limit has above our own."""
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
