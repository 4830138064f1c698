"""gRPC: unary calls that carry `splitbench.proto`.

Handlers and callables are bound by their path instead of a generated `_pb2_grpc`: the codec makes and reads the bytes
itself, so that what it refuses becomes an answer of ours and not gRPC's INTERNAL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc

from transports import protobuf_codec
from transports.base import (
    Address,
    Connection,
    Handler,
    Limits,
    Message,
    Server,
    Transport,
    check_message,
    guard,
    raise_error,
    respond,
)
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

__all__ = ["STATUS", "GrpcProtobuf"]

SERVICE = "splitbench.v1.Carrier"
METHODS: Mapping[str, str] = {"raw": "Raw", "tensorproto": "TensorProto"}
"""Codec -> the method that is asked and answered in it."""

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
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,  # or `MessageTooLarge`: see `_error`
    grpc.StatusCode.FAILED_PRECONDITION: RemoteError,
    grpc.StatusCode.ABORTED: ConnectionLost,
    grpc.StatusCode.UNIMPLEMENTED: RemoteError,
    grpc.StatusCode.OUT_OF_RANGE: RemoteError,
    grpc.StatusCode.INTERNAL: RemoteError,
    grpc.StatusCode.UNAVAILABLE: ConnectionLost,
    grpc.StatusCode.DATA_LOSS: MalformedMessage,
}
"""Every status that gRPC knows -> the error that it is here."""


class GrpcProtobuf(Transport):
    """Unary gRPC over HTTP/2, without TLS."""

    name = "grpc"
    codecs = ("raw", "tensorproto")

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        # One thread more than workers: it is what refuses the call for which no worker is left.
        executor = ThreadPoolExecutor(workers + 1, thread_name_prefix="grpc-worker")
        server = grpc.server(executor, options=(*_limits(self.options), *SERVER_OPTIONS))
        guarded = guard(handler, self.options, workers)
        methods = {METHODS[codec]: _method(guarded, codec, self.options) for codec in self.codecs}
        methods["Ready"] = grpc.unary_unary_rpc_method_handler(_ready)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        try:
            bound = server.add_insecure_port(_target(Address(host, port)))
        except RuntimeError as error:
            raise ConnectError(f"cannot bind {host}:{port}: {error}") from None
        server.start()
        return GrpcServer(server, executor, Address(host, bound))

    def connect(self, address: Address, codec: str = "raw", timeout: float = 10.0) -> Connection:
        self.check_codec(codec)
        channel = grpc.insecure_channel(_target(address), options=(*_limits(self.options), *CHANNEL_OPTIONS))
        try:
            _await_ready(channel, address, timeout)
        except BaseException:
            channel.close()
            raise
        return GrpcConnection(channel, address, codec, self.options)


STALL = (("grpc.keepalive_time_ms", 3_600_000), ("grpc.keepalive_timeout_ms", 5_000))
"""No pings to speak of, but TCP_USER_TIMEOUT, which gRPC sets with them: a write that a frozen peer does not take ends
after five seconds. Without it such a call outlives its deadline for as long as the peer is frozen."""
SERVER_OPTIONS = (
    *STALL,
    ("grpc.so_reuseport", 0),  # or a second server takes half of the calls of a port that is in use
)
CHANNEL_OPTIONS = (
    *STALL,
    ("grpc.use_local_subchannel_pool", 1),  # or two channels of a process share one connection
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a call is sent once, as over every other transport
)


def _limits(options: Limits) -> tuple[tuple[str, int], ...]:
    limit = options.max_message
    return ("grpc.max_send_message_length", limit), ("grpc.max_receive_message_length", limit)


def _target(address: Address) -> str:
    return f"[{address.host}]:{address.port}" if ":" in address.host else str(address)


def _method(handler: Handler, codec: str, options: Limits) -> grpc.RpcMethodHandler[bytes, bytes]:
    read = partial(protobuf_codec.read, limits=options)
    write = partial(protobuf_codec.write, codec=codec)

    def serve_call(request: bytes, _: grpc.ServicerContext) -> bytes:
        return respond(handler, request, read, write)

    return grpc.unary_unary_rpc_method_handler(serve_call)


def _ready(request: bytes, _: grpc.ServicerContext) -> bytes:
    return b""


def _await_ready(channel: grpc.Channel, address: Address, timeout: float) -> None:
    """Return when a server of ours answers on `channel`. Raises `ConnectError`, at once where nobody listens.

    A call finds that out in a millisecond; gRPC's own `channel_ready_future` retries in silence until the timeout, and
    leaves a thread behind that makes closing the channel take 200 ms.
    """
    try:
        channel.unary_unary(f"/{SERVICE}/Ready", request_serializer=None, response_deserializer=None)(
            b"", timeout=timeout
        )
    except grpc.RpcError as error:
        raise ConnectError(f"no connection to {address}: {error.code().name}: {error.details()}") from None


class GrpcServer(Server):
    def __init__(self, server: grpc.Server, executor: ThreadPoolExecutor, address: Address) -> None:
        self.address = address
        self._server = server
        self._executor = executor

    def close(self) -> None:
        """A handler that is still running is not waited for; its caller is told at once."""
        self._server.stop(None).wait()
        self._executor.shutdown(wait=False, cancel_futures=True)


class GrpcConnection(Connection):
    def __init__(self, channel: grpc.Channel, address: Address, codec: str, options: Limits) -> None:
        self._channel = channel
        self._address = address
        self._codec = codec
        self._options = options
        path = f"/{SERVICE}/{METHODS[codec]}"
        self._call = channel.unary_unary(path, request_serializer=None, response_deserializer=None)

    def call(self, message: Message, timeout: float) -> Message:
        if self.closed:
            raise ConnectionLost(f"the connection to {self._address} is closed")
        request = protobuf_codec.write(check_message(message, self._options), self._codec)
        try:
            reply = self._call(request, timeout=timeout)
        except grpc.RpcError as error:
            raise self._lost(_error(error, self._address)) from None
        return raise_error(protobuf_codec.read(reply, self._options))

    def _lost(self, error: WireError) -> WireError:
        if isinstance(error, ConnectionLost):
            self.close()
        return error

    def close(self) -> None:
        self.closed = True
        self._channel.close()


def _error(error: grpc.RpcError, address: Address) -> WireError:
    """The one place where what gRPC raises becomes an error of ours."""
    code, details = error.code(), error.details() or ""
    sizes = re.search(r"larger than max \((\d+) vs\. (\d+)\)", details)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and sizes:
        return MessageTooLarge(
            f"a message of {sizes[1]} bytes to or from {address} is above the limit of {sizes[2]} bytes"
        )
    return STATUS[code](f"{address}: {code.name}: {details}")
