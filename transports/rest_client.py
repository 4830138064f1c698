"""The client of REST. `rest_server` is the other end.

h11 over the package's own sockets: the deadline holds for a whole call and not for each read, no request is repeated,
the environment's proxies are ignored, and TCP_NODELAY is set.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

import h11

from transports import json_codec
from transports.address import Address
from transports.base import Message
from transports.errors import RemoteError, WireError
from transports.http_stream import HttpStream, headers_of
from transports.limits import Limits
from transports.rest_server import IS_READY, PATHS, READY, body_limit, heading
from transports.socket_connection import SocketConnection
from transports.sockets import Deadline, DeadlineSocket


class RestConnection(SocketConnection):
    protocol = "REST"

    def __init__(self, sock: DeadlineSocket, address: Address, codec: str, options: Limits, deadline: Deadline) -> None:
        self._codec = codec
        self._stream = HttpStream(sock, h11.CLIENT)
        super().__init__(sock, address, options, deadline)

    def encode(self, message: Message) -> tuple[bytes, dict[str, str]]:
        return json_codec.write(message, self._codec), heading(message)

    def _ask(self, request: tuple[bytes, dict[str, str]]) -> bytearray:
        body, headers = request
        return self._exchange("POST", PATHS[self._codec], body, headers)

    def decode(self, answer: bytearray) -> Message:
        return json_codec.read(answer, self.limits)

    def _meet(self) -> None:
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if (said := self._exchange("GET", READY, b"", {})) != IS_READY:
            raise RemoteError(f"it is not ready; it answered {said[:40]!r}")

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytearray:
        """The body of the answer. Raises `MessageTooLarge` for one above the limit, after discarding it."""
        given = {"Host": str(self.address), "Content-Length": str(len(body)), **headers}
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
        return self._stream.body(body_limit(headers, self._codec, self.limits), headers.get("content-length"))

    def _renew(self) -> None:
        if not self._stream.renew():
            self.close()

    def _violation(self, error: Exception) -> str | None:
        return str(error) if isinstance(error, (h11.ProtocolError, WireError)) else None
