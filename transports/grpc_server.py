"""The server of gRPC: whole messages and chunks, on a thread pool whose threads no peer can hold.

Rules:
  - A call occupies a thread of gRPC from its first frame on, and a worker (`serving.guard`) only once its message is
    complete. So there are more `threads` than workers: other threads hold calls that are still arriving, that are being
    refused, or whose answer has been sent.
  - The server cancels a call or a handshake whose peer stalls for longer than `Limits.stall` (`watchdog`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import grpc

from transports import frame_codec, protobuf_codec
from transports.address import LAST_PORT, Address
from transports.base import Handler, Message, Server
from transports.errors import ConnectError, MalformedMessage
from transports.grpc_options import GrpcOptions
from transports.grpc_stream import chunks, gather
from transports.limits import ENVELOPE, Limits
from transports.serving import Guarded, guard, respond
from transports.sockets import Deadline
from transports.tls import Tls
from transports.watchdog import Watchdog

SERVICE = "splitbench.v1.Carrier"
READY = f"/{SERVICE}/Ready"
METHODS: Mapping[str, str] = {
    "raw": f"/{SERVICE}/Raw",
    "tensorproto": f"/{SERVICE}/TensorProto",
    "frame": f"/{SERVICE}/Frame",
}
"""Codec -> path of the gRPC method whose requests and answers use it."""
CHUNKED: Mapping[str, str] = {codec: f"{path}Chunks" for codec, path in METHODS.items()}
"""Codec -> path of the method that takes and returns messages in chunks."""

WRITERS: Mapping[str, Callable[[Message], bytes]] = {
    "raw": partial(protobuf_codec.write, codec="raw"),
    "tensorproto": partial(protobuf_codec.write, codec="tensorproto"),
    "frame": frame_codec.write,
}
READERS: Mapping[str, Callable[[Any, Limits], Message]] = {
    "raw": protobuf_codec.read,
    "tensorproto": protobuf_codec.read,
    "frame": lambda data, _: frame_codec.read_whole(data),
}
"""Codec -> the function that writes a message as bytes, and the function that reads a message from bytes."""

STALL = (("grpc.keepalive_time_ms", 3_600_000), ("grpc.keepalive_timeout_ms", 5_000))
"""Pings once an hour, only because gRPC sets TCP_USER_TIMEOUT together with them: a write to a frozen peer then fails
after five seconds. Without this timeout, a call outlives its deadline for as long as its peer is frozen."""


Begin = Callable[[grpc.ServicerContext], None]
"""Counts a call that begins, or ends the call if the server is draining."""


class GrpcServer(Server):
    """Raises `ConnectError` when the port cannot be bound."""

    def __init__(self, handler: Handler, address: Address, workers: int, options: GrpcOptions, tls: Tls | None) -> None:
        self._executor = ThreadPoolExecutor(threads(workers), thread_name_prefix="grpc-worker")
        self._server = grpc.server(
            self._executor,
            options=_server_options(options),
            maximum_concurrent_rpcs=threads(workers) if options.when_full == "refuse" else None,
        )
        self.address = Address(address.host, _bind(self._server, address, tls))
        self._watchdog = Watchdog(options.stall)
        self._changed = threading.Condition()
        self._under_way = 0
        self._draining = False
        methods = _methods(guard(handler, options, workers), options, self._watchdog, self._begin)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        self._server.start()

    def drain(self, seconds: float) -> None:
        """Refuse new calls, wait for the calls under way, and only then let gRPC shut down.

        If a shutdown begins while a call is under way, gRPC closes the socket as soon as the call has ended. The kernel
        then answers further packets of the client (window updates) with a reset, and drops the rest of the answer. If
        the shutdown begins after the calls, gRPC first waits until the client confirms a ping; the client reads the
        ping only after the answers.
        """
        deadline = Deadline.after(seconds)
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not self._under_way, seconds)
        self._server.stop(deadline.left()).wait(deadline.left())  # gRPC ends no call while it writes a piece

    def _begin(self, context: grpc.ServicerContext) -> None:
        """Count a call until its answer has been written. If the server drains, end the call with UNAVAILABLE."""
        with self._changed:
            refused = self._draining
            self._under_way += not refused
        if refused:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is draining")
        if not context.add_callback(self._end):
            self._end()

    def _end(self) -> None:
        with self._changed:
            self._under_way -= 1
            if self._draining:
                self._changed.notify_all()

    def close(self) -> None:
        """End every call at once, without waiting for handlers that still run."""
        self._server.stop(None).wait()
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._watchdog.close()


def threads(workers: int) -> int:
    """The number of calls that a server holds at a time, each in a thread that starts when it is needed.

    There are two threads for each worker: a caller has its answer before the thread that sent it is free, so the
    caller's next call may need another thread.
    """
    return 2 * workers + 8


def message_limits(options: Limits) -> tuple[tuple[str, int], ...]:
    """gRPC's own limits on messages, which it checks before it allocates memory for a message."""
    limit = options.max_message + ENVELOPE
    return ("grpc.max_send_message_length", limit), ("grpc.max_receive_message_length", limit)


def _server_options(options: Limits) -> tuple[tuple[str, int], ...]:
    return (
        *message_limits(options),
        *STALL,
        ("grpc.so_reuseport", 0),  # otherwise a second server can bind a port in use and gets half of its calls
        ("grpc.server_handshake_timeout_ms", int(options.stall * 1000)),
    )


def target(address: Address) -> str:
    """`address` as gRPC writes it. Raises `ConnectError` for a port above 65535: gRPC would use another port."""
    if address.port > LAST_PORT:
        raise ConnectError(f"{address}: the last port is {LAST_PORT}")
    return f"[{address.host}]:{address.port}" if ":" in address.host else str(address)


def _bind(server: grpc.Server, address: Address, tls: Tls | None) -> int:
    """Bind the server; returns the actual port. Raises `ConnectError`."""
    try:
        if tls is None:
            return server.add_insecure_port(target(address))
        pair = [(tls.key, tls.cert)]
        credentials = grpc.ssl_server_credentials(pair, tls.ca, require_client_auth=True)
        return server.add_secure_port(target(address), credentials)
    except RuntimeError as error:
        raise ConnectError(f"cannot bind {address}: {error}") from None


def _methods(
    handler: Guarded, options: GrpcOptions, watchdog: Watchdog, begin: Begin
) -> dict[str, grpc.RpcMethodHandler[bytes, bytes]]:
    """Name of a gRPC method -> its handler."""
    found = {
        READY: _ready(watchdog, begin),
        **{METHODS[codec]: _whole(handler, codec, options, watchdog, begin) for codec in METHODS},
        **{CHUNKED[codec]: _chunked(handler, codec, options, watchdog, begin) for codec in CHUNKED},
    }
    return {path.rpartition("/")[2]: method for path, method in found.items()}


def _ready(watchdog: Watchdog, begin: Begin) -> grpc.RpcMethodHandler[bytes, bytes]:
    def answer_ready(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        begin(context)
        for _ in watchdog.receiving(requests, context):
            pass
        return b""

    return grpc.stream_unary_rpc_method_handler(answer_ready)


def _gone(context: grpc.ServicerContext) -> Callable[[], bool]:
    """A function that tells whether the caller of `context` has gone or its deadline has passed."""
    return lambda: not context.is_active()


def _whole(
    handler: Guarded, codec: str, options: Limits, watchdog: Watchdog, begin: Begin
) -> grpc.RpcMethodHandler[bytes, bytes]:
    """The handler of unary calls. In Python it is a stream of one request: only there can grpcio end a wait for it."""
    write, read_bytes = WRITERS[codec], READERS[codec]

    def read(request: bytes | None) -> Message:
        if request is None:
            raise MalformedMessage("a call came without a message")
        return read_bytes(request, options)

    def serve_call(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
        begin(context)
        return respond(handler, watchdog.next(requests, context), read, write, _gone(context))

    return grpc.stream_unary_rpc_method_handler(serve_call)


def _chunked(
    handler: Guarded, codec: str, options: GrpcOptions, watchdog: Watchdog, begin: Begin
) -> grpc.RpcMethodHandler[bytes, bytes]:
    write = WRITERS[codec]

    def read(stream: Iterator[bytes]) -> Message:
        return READERS[codec](gather(stream, options), options)

    def serve_call(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        begin(context)
        reply = respond(handler, watchdog.receiving(requests, context), read, write, _gone(context))
        yield from watchdog.sending(chunks(reply, options.chunk), context)

    return grpc.stream_stream_rpc_method_handler(serve_call)
