"""A server of HTTP/1.1 with a thread for each connection, which no peer can keep.

A thread, and no event loop: what an application does is work for a thread anyway, and one thread that reads a request,
answers it and writes the answer hands nothing over. Connections are kept until their peer closes them.

Rules:
  - A connection may be idle for as long as it likes once its first request has been answered. Within a request, its
    head must be there `stall` seconds after its first byte, and each piece of its body `stall` seconds after the last.
  - An application says how large a body it takes before the body is read; what is above is refused, and thrown away.
  - What is no HTTP is answered with 400 where that is possible, and ends its own connection alone.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from typing import Protocol

import h11

from transports import tls
from transports.base import Address, log
from transports.errors import ConnectError, MalformedMessage, WireError
from transports.http_stream import HttpStream, headers_of
from transports.limits import CONNECTIONS, GRACE
from transports.sockets import DeadlineSocket, Expired, keep_alive

__all__ = ["Application", "Head", "HttpServer", "Reply"]


@dataclass(frozen=True)
class Head:
    """What a request says before its body. `headers` by their names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    gone: Callable[[], bool] = lambda: False
    """Whether the client has closed its end: most then take no answer, but HTTP allows it."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Application(Protocol):
    """What answers requests, on as many threads as there are connections."""

    def admit(self, head: Head) -> int | Reply:
        """Bytes that the body may take, or the answer to a request that is refused unread. Raises `WireError`."""

    def answer(self, head: Head, body: bytearray) -> Reply:
        """The answer to a request that has come whole."""

    def refusal(self, error: WireError) -> Reply:
        """The answer to a request that was not admitted, is above what was, or is no HTTP."""


class HttpServer:
    """Raises `ConnectError` when the port cannot be bound."""

    def __init__(self, application: Application, address: Address, stall: float, own: tls.Tls | None = None) -> None:
        self._application = application
        self._stall = stall
        self._tls = own
        self._open = True
        self._pause = threading.Event()
        self._peers: dict[threading.Thread, DeadlineSocket] = {}
        self._listener = _bound(address)
        self.address = Address(address.host, self._listener.getsockname()[1])
        self._accepting = threading.Thread(target=self._accept, name=f"http-accept-{self.address.port}", daemon=True)
        self._accepting.start()

    def close(self) -> None:
        """End every connection. A handler that still runs is waited for, for a few seconds. Idempotent."""
        self._open = False
        self._pause.set()
        _hang_up(self._listener)
        deadline = time.monotonic() + GRACE
        own = {threading.current_thread()}
        for thread in {self._accepting} - own:
            thread.join()
        self._listener.close()
        peers = dict(self._peers)
        for sock in peers.values():
            _hang_up(sock)
        for thread in peers.keys() - own:
            thread.join(max(0.0, deadline - time.monotonic()))

    def _accept(self) -> None:
        """Take connections until the server closes. One that cannot be taken, for want of a descriptor, ends none."""
        while self._open:
            try:
                self._take(self._listener.accept()[0])
            except (OSError, RuntimeError) as error:
                if self._open:
                    log.warning("could not take a connection to port %s: %s", self.address.port, error)
                    self._pause.wait(0.05)

    def _take(self, sock: socket.socket) -> None:
        """Begin a conversation. Raises `OSError`, and `RuntimeError` where there is no thread for it."""
        with ExitStack() as undo:
            undo.enter_context(sock)
            if len(self._peers) >= CONNECTIONS:
                raise RuntimeError(f"{CONNECTIONS} connections are open")
            peer = undo.enter_context(tls.accepted(sock, self._tls))
            name = f"http-{self.address.port}"
            thread = threading.Thread(target=self._converse, args=(peer,), name=name, daemon=True)
            self._peers[thread] = peer
            undo.callback(self._peers.pop, thread)
            thread.start()
            undo.pop_all()

    def _converse(self, sock: DeadlineSocket) -> None:
        """Serve one connection until it ends; whatever a peer does ends no more than its own."""
        try:
            with closing(sock):
                self._admit(sock)
                stream = HttpStream(sock, h11.SERVER)
                while self._exchange(stream):
                    stream.readable(None)
        except EOFError:
            pass
        except Exception as error:
            level = logging.WARNING if self._open else logging.DEBUG
            log.log(level, "dropped a connection to port %s: %s: %s", self.address.port, type(error).__name__, error)
        finally:
            del self._peers[threading.current_thread()]

    def _admit(self, sock: DeadlineSocket) -> None:
        """A new peer has `stall` seconds to greet, and as many again to say something. Raises `Expired`, `OSError`."""
        keep_alive(sock)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.patience = self._stall
        sock.greet()
        if not sock.readable(self._stall):
            raise Expired(f"nothing was said for {self._stall:g} s")

    def _exchange(self, stream: HttpStream) -> bool:
        """Answer one request; whether the connection goes on."""
        try:
            head = self._head(stream)
            reply = self._reply(head, stream)
        except h11.RemoteProtocolError as error:
            if stream.may_send:
                _send(stream, self._application.refusal(MalformedMessage(f"that is no HTTP: {error}")), "GET")
            return False
        _send(stream, reply, head.method)
        return stream.renew()

    def _head(self, stream: HttpStream) -> Head:
        stream.sock.deadline = time.monotonic() + self._stall
        request = stream.head()
        stream.sock.deadline = math.inf
        target = request.target.decode("latin-1")
        return Head(request.method.decode(), target, headers_of(request), stream.sock.gone)

    def _reply(self, head: Head, stream: HttpStream) -> Reply:
        try:
            admitted = self._application.admit(head)
            if isinstance(admitted, int):
                return self._application.answer(head, stream.body(admitted, head.headers.get("content-length")))
        except WireError as error:
            admitted = self._application.refusal(error)
        stream.skip()
        return admitted


def _send(stream: HttpStream, reply: Reply, method: str) -> None:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
    response = h11.Response(status_code=reply.status, headers=list(headers.items()))
    stream.send(response, reply.body if method != "HEAD" else b"")


def _bound(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        raise ConnectError(f"cannot bind {address}: {error}") from None


def _hang_up(sock: socket.socket) -> None:
    """Wake whoever waits on `sock`, and let it find nothing. Below TLS, which is not to be touched by two threads."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
