"""A server of HTTP/1.1 with limits on time and size.

Rules:
  - A connection may be idle without a limit once its first request has been answered. The head of a request must be
    complete `stall` seconds after its first byte, and each piece of a body must come `stall` seconds after the last.
  - The application gives the largest body before the body is read. A larger one is refused and discarded.
  - Data that is no HTTP is answered with 400 if that is still possible, and ends its own connection only.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import h11

from transports import tls
from transports.address import Address
from transports.errors import MalformedMessage, WireError
from transports.http_stream import HttpStream, headers_of
from transports.listener import Listener
from transports.sockets import DeadlineSocket


@dataclass(frozen=True)
class Head:
    """The head of a request. The names of `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    gone: Callable[[], bool] = lambda: False
    """Whether the client has closed its end. HTTP allows a client to do so and still read the answer."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Application(Protocol):
    """Answers requests, in one thread for each connection."""

    def admit(self, head: Head) -> int | Reply:
        """The largest body in bytes, or the answer to a request that is refused unread. Raises `WireError`."""

    def answer(self, head: Head, body: bytearray) -> Reply:
        """The answer to a complete request."""

    def refusal(self, error: WireError) -> Reply:
        """The answer to a request that was not admitted, is too large, or is no HTTP."""


class HttpServer(Listener):
    """Raises `ConnectError` when the port cannot be bound."""

    def __init__(self, application: Application, address: Address, stall: float, own: tls.Tls | None = None) -> None:
        self._application = application
        super().__init__(self._talk, address, stall, own)

    def _talk(self, sock: DeadlineSocket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        stream = HttpStream(sock, h11.SERVER)
        while self._exchange(stream):
            stream.readable(None)

    def _exchange(self, stream: HttpStream) -> bool:
        """Answer one request. Returns whether the connection goes on."""
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
        stream.sock.deadline = time.monotonic() + self.stall
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
