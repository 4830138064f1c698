"""The client of REST: urllib3 over the package's own sockets. `rest_server` is the other end.

It repeats no request, and ignores proxies that environment variables name.
"""

from __future__ import annotations

from http.client import HTTPException

from urllib3.exceptions import HTTPError

from transports import json_codec
from transports.address import Address
from transports.base import Message
from transports.errors import RemoteError, WireError
from transports.http_client import HttpConnection, body_of
from transports.limits import Limits
from transports.rest_server import IS_READY, PATHS, READY, body_limit, heading
from transports.socket_connection import SocketConnection
from transports.sockets import Deadline, DeadlineSocket


class RestConnection(SocketConnection):
    protocol = "REST"

    def __init__(self, sock: DeadlineSocket, address: Address, codec: str, options: Limits, deadline: Deadline) -> None:
        self._codec = codec
        self._http = HttpConnection(sock, address)
        super().__init__(sock, address, options, deadline)

    def encode(self, message: Message) -> tuple[bytes, dict[str, str]]:
        return json_codec.write(message, self._codec), {"Content-Type": "application/json", **heading(message)}

    def _ask(self, request: tuple[bytes, dict[str, str]]) -> bytearray:
        body, headers = request
        return self._exchange("POST", PATHS[self._codec], body, headers)

    def decode(self, answer: bytearray) -> Message:
        return json_codec.read(answer, self.limits)

    def _meet(self) -> None:
        if (said := self._exchange("GET", READY, b"", {})) != IS_READY:
            raise RemoteError(f"it is not ready; it answered {said[:40]!r}")

    def _exchange(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> bytearray:
        """The body of the answer. Raises `MessageTooLarge` for one above the limit, after discarding it."""
        response = self._http.ask(method, path, body, headers)
        try:
            return body_of(response, body_limit(response.headers, self._codec, self.limits))
        except WireError:
            response.drain_conn()
            raise
        finally:
            if self._http.is_closed:
                self.close()

    def _violation(self, error: Exception) -> str | None:
        return str(error) if isinstance(error, (HTTPException, HTTPError, WireError)) else None
