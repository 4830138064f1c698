"""`rest`: HTTP/1.1 and JSON, with connections that are kept. `rest_server` is the other end.

h11 at both ends, over the sockets of the other transports: the deadline holds for a whole call and not for each read of
it, nothing is sent twice, no proxy is looked for in the environment, and Nagle's algorithm is off.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

import h11

from transports import json_codec, tls
from transports.address import Address
from transports.base import Connection, Handler, Message, Server, Transport, check_message, guard, raise_error
from transports.errors import RemoteError, WireError
from transports.http_server import HttpServer
from transports.http_stream import HttpStream, headers_of
from transports.limits import Limits
from transports.rest_server import IS_READY, PATHS, READY, Carrier, body_limit, heading
from transports.socket_connection import SocketConnection, dial
from transports.sockets import Deadline, DeadlineSocket


class Rest(Transport):
    """HTTP/1.1, with mutual TLS where the options name its files."""

    name = "rest"
    codecs = tuple(PATHS)

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        carrier = Carrier(guard(handler, self.options, workers), self.options)
        return HttpServer(carrier, Address(host, port), self.options.stall, self._tls)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0) -> Connection:
        codec = self.check_codec(codec)
        deadline = Deadline.after(timeout)
        sock = dial(address, self._tls, deadline)
        return RestConnection(sock, address, codec, self.options, deadline)


class RestConnection(SocketConnection):
    protocol = "REST"

    def __init__(self, sock: DeadlineSocket, address: Address, codec: str, options: Limits, deadline: Deadline) -> None:
        self._codec = codec
        self._stream = HttpStream(sock, h11.CLIENT)
        super().__init__(sock, address, options, deadline)

    def call(self, message: Message, timeout: float) -> Message:
        deadline = Deadline.after(timeout)
        body = json_codec.write(check_message(message, self._options), self._codec)
        with self._until(deadline):
            answer = self._exchange("POST", PATHS[self._codec], body, heading(message))
        return check_message(raise_error(json_codec.read(answer, self._options)), self._options)

    def _meet(self) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (said := self._exchange("GET", READY, b"", {})) != IS_READY:
            raise RemoteError(f"it is not ready, but says {said[:40]!r}")

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytearray:
        """The body of the answer. Raises `MessageTooLarge` for one above the limit, which has then been thrown away."""
        given = {"Host": str(self._address), "Content-Length": str(len(body)), **headers}
        if body:
            given["Content-Type"] = "application/json"
        self._stream.send(h11.Request(method=method, target=path, headers=list(given.items())), body)
        response = self._stream.head()
        try:
            return self._body(headers_of(response))
        finally:
            self._stream.skip()
            self._renew()

    def _body(self, headers: Mapping[str, str]) -> bytearray:
        return self._stream.body(body_limit(headers, self._codec, self._options), headers.get("content-length"))

    def _renew(self) -> None:
        if not self._stream.renew():
            self.close()

    def _violation(self, error: Exception) -> str | None:
        return str(error) if isinstance(error, (h11.ProtocolError, WireError)) else None
