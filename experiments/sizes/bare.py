"""Echoes that use a library alone, as its users write them: the references for this project's transports.

A client sends an array, the server makes an array of the bytes that it receives and sends it back, and the client makes
an array of the answer. Messages have no method, names or limits, and both ends know the dtype. Rows:
  bare-tcp         a socket with TCP_NODELAY, an 8-byte length, `recv_into`
  bare-unix        the same over a Unix socket
  bare-grpc        grpcio with bytes instead of protobuf messages
  bare-grpc-stub   grpcio with a generated protobuf message that has one bytes field
  bare-rpyc        RPyC with its defaults: `rpyc.connect`, `ThreadedServer`; an array is a tuple that brine carries by
                   value: dtype, shape, bytes
  bare-rpyc-tuned  RPyC without compression, with TCP_NODELAY, in pieces of 16 MB
  bare-zmq         pyzmq: a ROUTER that returns what a DEALER sends, over TCP
  bare-rest        uvicorn with an ASGI application that returns the body, and a pool of urllib3
  bare-rest-json   the same with numbers in JSON (orjson), which the server reads and writes in a thread
  bare-rest-b64    the same with base64 in JSON
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Self

import numpy as np

from experiments.sizes import bare_rest, bare_sockets
from transports import Address, Message
from transports.base import Array
from transports.errors import ConnectionLost

HOST = "127.0.0.1"
LARGEST = 2**31 - 1
PIECE = 16 * 2**20
METHOD = "/bare.Echo/Echo"

Serve = Callable[[], AbstractContextManager[int]]
"""Starts a server in this process, and yields its port."""
Call = Callable[[Array], Any]
Connect = Callable[[int], AbstractContextManager[Call]]
"""Connects to a port, and yields a function that sends an array and returns the answer's bytes, or an array of them."""


@dataclass(frozen=True)
class Bare:
    """A library's own echo, and the transports of this project that use the same library in the same way."""

    serve: Serve
    connect: Connect
    compared: tuple[str, ...]
    codecs: tuple[str, ...] = ("raw",)
    """The codecs in which these transports are compared with the echo."""

    def compares(self, transport: str, codec: str, send: str) -> bool:
        """Whether the echo is a reference for this way to send a tensor."""
        return transport in self.compared and codec in self.codecs and send != "stream"


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
            answer = self._call(sent)
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


def _coding(stub: bool) -> dict[str, Any]:
    """How a client writes a request and reads a reply: with generated code, or (empty) as bytes."""
    if not stub:
        return {}
    from google.protobuf.wrappers_pb2 import BytesValue

    return {"request_serializer": BytesValue.SerializeToString, "response_deserializer": BytesValue.FromString}


def _unlimited() -> list[tuple[str, int]]:
    return [(f"grpc.max_{way}_message_length", LARGEST) for way in ("send", "receive")]


def _array(data: bytes) -> Array:
    """The array that a server makes of received bytes."""
    return np.frombuffer(data, np.uint8)


def _answer_stub(request: Any, _: object) -> Any:
    return type(request)(value=_array(request.value).tobytes())


@contextlib.contextmanager
def _serve_grpc(stub: bool) -> Iterator[int]:
    import grpc

    coding = _coding(stub)
    handler = grpc.unary_unary_rpc_method_handler(
        _answer_stub if stub else lambda request, _: _array(request).tobytes(),
        coding.get("response_deserializer"),
        coding.get("request_serializer"),
    )
    service, method = METHOD.strip("/").split("/")
    server = grpc.server(ThreadPoolExecutor(4), options=_unlimited())
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {method: handler}),))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(None).wait()


@contextlib.contextmanager
def _connect_grpc(stub: bool, port: int) -> Iterator[Call]:
    import grpc
    from google.protobuf.wrappers_pb2 import BytesValue

    with grpc.insecure_channel(f"{HOST}:{port}", options=_unlimited()) as channel:
        method = channel.unary_unary(METHOD, **_coding(stub))
        if stub:
            yield lambda array: method(BytesValue(value=array.tobytes())).value
        else:
            yield lambda array: method(array.tobytes())


RpycTensor = tuple[str, tuple[int, ...], bytes]


def _pack(array: Array) -> RpycTensor:
    return array.dtype.name, array.shape, array.tobytes()


def _unpack(tensor: RpycTensor) -> Array:
    dtype, shape, data = tensor
    return np.frombuffer(data, dtype).reshape(shape)


def _service() -> Any:
    import rpyc

    class Echo(rpyc.Service):  # type: ignore[misc]
        def exposed_echo(self, tensor: RpycTensor) -> RpycTensor:
            return _pack(_unpack(tensor))

    return Echo


def _echo(connection: Any) -> Call:
    remote = connection.root.echo
    return lambda array: _unpack(remote(_pack(array)))


@contextlib.contextmanager
def _serve_rpyc() -> Iterator[int]:
    from rpyc.utils.server import ThreadedServer

    with contextlib.closing(ThreadedServer(_service(), hostname=HOST, port=0)) as server:
        threading.Thread(target=server.start, daemon=True).start()
        yield int(server.port)


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


@contextlib.contextmanager
def _serve_rpyc_tuned() -> Iterator[int]:
    def converse(sock: socket.socket) -> None:
        with contextlib.suppress(EOFError):
            _service()()._connect(_channel(sock), {}).serve_all()

    with socket.create_server((HOST, 0)) as listener, bare_sockets.accepting(listener, converse):
        yield int(listener.getsockname()[1])


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
                sender, data = router.recv_multipart()
                router.send_multipart([sender, _array(data).data])

    ports: SimpleQueue[int] = SimpleQueue()
    with zmq.Context() as context:  # the end of the context interrupts the thread
        threading.Thread(target=echo, daemon=True).start()
        yield ports.get()


@contextlib.contextmanager
def _connect_zmq(port: int) -> Iterator[Call]:
    import zmq

    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with context.socket(zmq.DEALER) as dealer, dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as lost:
        dealer.linger, dealer.rcvtimeo = 0, 1000
        dealer.connect(f"tcp://{HOST}:{port}")

        def call(array: Array) -> bytes:
            dealer.send(array.data)
            while True:
                with contextlib.suppress(zmq.Again):
                    return dealer.recv()
                if lost.poll(0):
                    raise EOFError("the server has closed the connection")

        try:
            yield call
        finally:
            dealer.disable_monitor()


def _rest(form: str, codecs: tuple[str, ...]) -> Bare:
    return Bare(partial(bare_rest.serve, HOST, form), partial(bare_rest.connect, HOST, form), ("rest",), codecs)


BARE: Mapping[str, Bare] = {
    "bare-tcp": Bare(partial(bare_sockets.serve_tcp, HOST), partial(bare_sockets.connect_tcp, HOST), ("tcp",)),
    "bare-unix": Bare(bare_sockets.serve_unix, bare_sockets.connect_unix, ("unix",)),
    "bare-grpc": Bare(partial(_serve_grpc, False), partial(_connect_grpc, False), ("grpc-tuned",)),
    "bare-grpc-stub": Bare(partial(_serve_grpc, True), partial(_connect_grpc, True), ("grpc",)),
    "bare-rpyc": Bare(_serve_rpyc, _connect_rpyc, ("rpyc",)),
    "bare-rpyc-tuned": Bare(_serve_rpyc_tuned, _connect_rpyc_tuned, ("rpyc-tuned",)),
    "bare-zmq": Bare(_serve_zmq, _connect_zmq, ("zmq",)),
    "bare-rest-json": _rest("json", ("json",)),
    "bare-rest-b64": _rest("json-b64", ("json-b64",)),
    "bare-rest": _rest("raw", ("json", "json-b64")),
}
