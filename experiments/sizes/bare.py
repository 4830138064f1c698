"""Echoes that use a library alone, as its users write them: the references for this project's transports.

A client sends the bytes of an array, and the server returns them; there is no method, name or limit. Rows:
  bare-tcp         a socket with TCP_NODELAY, an 8-byte length, `recv_into`
  bare-grpc        grpcio with bytes instead of protobuf messages
  bare-grpc-stub   grpcio with a generated protobuf message that has one bytes field
  bare-rpyc        RPyC with its defaults: `rpyc.connect`, `ThreadedServer`; an array is a tuple that brine carries by
                   value: dtype, shape, bytes
  bare-rpyc-tuned  RPyC without compression, with TCP_NODELAY, in pieces of 16 MB
  bare-zmq         pyzmq: a ROUTER that returns what a DEALER sends, over TCP
  bare-rest        uvicorn with an ASGI application, and a pool of urllib3
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Self

import numpy as np

from experiments.sizes import bare_rest
from transports import Address, Message
from transports.errors import ConnectionLost

HOST = "127.0.0.1"
LENGTH = struct.Struct("<Q")
LARGEST = 2**31 - 1
PIECE = 16 * 2**20
METHOD = "/bare.Echo/Echo"

Serve = Callable[[], AbstractContextManager[int]]
"""Starts a server in this process, and yields its port."""
Call = Callable[[bytes], Any]
Connect = Callable[[int], AbstractContextManager[Call]]
"""Connects to a port, and yields a function that sends bytes and returns the bytes of the answer."""


@dataclass(frozen=True)
class Bare:
    """A library's own echo, and the transports of this project that use the same library in the same way."""

    serve: Serve
    connect: Connect
    compared: tuple[str, ...]


class BareConnection:
    """Gives a bare echo the interface of `transports.Connection` for one tensor."""

    def __init__(self, name: str, address: Address) -> None:
        self._name = name
        self._stack = contextlib.ExitStack()
        self._call = self._stack.enter_context(BARE[name].connect(address.port))

    def call(self, message: Message, timeout: float) -> Message:
        """The echo of the tensor in `message`. `timeout` has no effect. Raises `ConnectionLost`."""
        (sent,) = message.tensors.values()
        try:
            answer = self._call(sent.tobytes())
        except Exception as error:  # each library has its own errors
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConnectionLost(f"{self._name}: {reason}") from error
        return Message(message.method, {}, {"x": np.frombuffer(answer, sent.dtype).reshape(sent.shape)})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()


def _receive(sock: socket.socket, buffer: bytearray) -> bytearray:
    view, got = memoryview(buffer), 0
    while got < len(view):
        count = sock.recv_into(view[got:])
        if not count:
            raise EOFError
        got += count
    return buffer


@contextlib.contextmanager
def _accepting(converse: Callable[[socket.socket], None]) -> Iterator[int]:
    """Calls `converse` with each accepted connection, in a thread of its own, until the context ends."""

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=converse, args=(sock,), daemon=True).start()

    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=accept, daemon=True).start()
        yield int(listener.getsockname()[1])
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _serve_tcp() -> AbstractContextManager[int]:
    def converse(sock: socket.socket) -> None:
        with sock, contextlib.suppress(EOFError, OSError):
            while True:
                head = _receive(sock, bytearray(LENGTH.size))
                body = _receive(sock, bytearray(LENGTH.unpack(head)[0]))
                sock.sendall(head)
                sock.sendall(body)

    return _accepting(converse)


@contextlib.contextmanager
def _connect_tcp(port: int) -> Iterator[Call]:
    with socket.create_connection((HOST, port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        def call(data: bytes) -> bytearray:
            sock.sendall(LENGTH.pack(len(data)))
            sock.sendall(data)
            return _receive(sock, bytearray(LENGTH.unpack(_receive(sock, bytearray(LENGTH.size)))[0]))

        yield call


def _coding(stub: bool) -> dict[str, Any]:
    """How a client writes a request and reads a reply: with generated code, or (empty) as bytes."""
    if not stub:
        return {}
    from google.protobuf.wrappers_pb2 import BytesValue

    return {"request_serializer": BytesValue.SerializeToString, "response_deserializer": BytesValue.FromString}


def _unlimited() -> list[tuple[str, int]]:
    return [(f"grpc.max_{way}_message_length", LARGEST) for way in ("send", "receive")]


@contextlib.contextmanager
def _serve_grpc(stub: bool) -> Iterator[int]:
    import grpc

    coding = _coding(stub)
    handler = grpc.unary_unary_rpc_method_handler(
        lambda request, _: request, coding.get("response_deserializer"), coding.get("request_serializer")
    )
    service, method = METHOD.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(4), options=_unlimited())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    yield port
    server.stop(None).wait()


@contextlib.contextmanager
def _connect_grpc(stub: bool, port: int) -> Iterator[Call]:
    import grpc
    from google.protobuf.wrappers_pb2 import BytesValue

    with grpc.insecure_channel(f"{HOST}:{port}", options=_unlimited()) as channel:
        method = channel.unary_unary(METHOD, **_coding(stub))
        yield (lambda data: method(BytesValue(value=data)).value) if stub else method


RpycTensor = tuple[str, tuple[int, ...], bytes]


def _service() -> Any:
    import rpyc

    class Echo(rpyc.Service):  # type: ignore[misc]
        def exposed_echo(self, tensor: RpycTensor) -> RpycTensor:
            return tensor

    return Echo


def _echo(connection: Any) -> Call:
    remote = connection.root.echo
    return lambda data: remote(("uint8", (len(data),), data))[2]


@contextlib.contextmanager
def _serve_rpyc() -> Iterator[int]:
    from rpyc.utils.server import ThreadedServer

    server = ThreadedServer(_service(), hostname=HOST, port=0)
    threading.Thread(target=server.start, daemon=True).start()
    yield int(server.port)
    server.close()


@contextlib.contextmanager
def _connect_rpyc(port: int) -> Iterator[Call]:
    import rpyc

    with contextlib.closing(rpyc.connect(HOST, port, config={"sync_request_timeout": None})) as connection:
        yield _echo(connection)


def _channel(sock: socket.socket) -> Any:
    from rpyc.core.channel import Channel
    from rpyc.core.stream import SocketStream

    class WideStream(SocketStream):  # type: ignore[misc]
        MAX_IO_CHUNK = PIECE

    return Channel(WideStream(sock), compress=False)


def _serve_rpyc_tuned() -> AbstractContextManager[int]:
    def converse(sock: socket.socket) -> None:
        with contextlib.suppress(EOFError):
            _service()()._connect(_channel(sock), {}).serve_all()

    return _accepting(converse)


@contextlib.contextmanager
def _connect_rpyc_tuned(port: int) -> Iterator[Call]:
    import rpyc

    sock = socket.create_connection((HOST, port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    config = {"sync_request_timeout": None}
    with contextlib.closing(rpyc.VoidService()._connect(_channel(sock), config)) as connection:
        yield _echo(connection)


@contextlib.contextmanager
def _serve_zmq() -> Iterator[int]:
    import zmq

    def echo() -> None:
        with contextlib.suppress(zmq.ContextTerminated), context.socket(zmq.ROUTER) as router:
            ports.put(router.bind_to_random_port(f"tcp://{HOST}"))
            while True:
                router.send_multipart(router.recv_multipart())

    ports: SimpleQueue[int] = SimpleQueue()
    with zmq.Context() as context:  # its end interrupts the thread
        threading.Thread(target=echo, daemon=True).start()
        yield ports.get()


@contextlib.contextmanager
def _connect_zmq(port: int) -> Iterator[Call]:
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.DEALER) as dealer, dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as lost:
        dealer.linger, dealer.rcvtimeo = 0, 1000
        dealer.connect(f"tcp://{HOST}:{port}")

        def call(data: bytes) -> bytes:
            dealer.send(data)
            while True:
                with contextlib.suppress(zmq.Again):
                    return dealer.recv()
                if lost.poll(0):
                    raise EOFError("the server has closed the connection")

        try:
            yield call
        finally:
            dealer.disable_monitor()


BARE: Mapping[str, Bare] = {
    "bare-tcp": Bare(_serve_tcp, _connect_tcp, ("tcp",)),
    "bare-grpc": Bare(partial(_serve_grpc, False), partial(_connect_grpc, False), ("grpc-tuned",)),
    "bare-grpc-stub": Bare(partial(_serve_grpc, True), partial(_connect_grpc, True), ("grpc",)),
    "bare-rpyc": Bare(_serve_rpyc, _connect_rpyc, ("rpyc",)),
    "bare-rpyc-tuned": Bare(_serve_rpyc_tuned, _connect_rpyc_tuned, ("rpyc-tuned",)),
    "bare-zmq": Bare(_serve_zmq, _connect_zmq, ("zmq",)),
    "bare-rest": Bare(partial(bare_rest.serve, HOST), partial(bare_rest.connect, HOST), ("rest",)),
}
