"""`rest`: HTTP/1.1 and JSON, with connections that are kept. `rest_server` is the other end.

h11 at both ends, over the sockets of the other transports: the deadline holds for a whole call and not for each read of
it, nothing is sent twice, no proxy is looked for in the environment, and Nagle's algorithm is off.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import h11

from transports import json_codec, tls
from transports.base import (
    Address,
    Connection,
    Handler,
    Limits,
    Message,
    Server,
    Transport,
    check_message,
    raise_error,
)
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MessageTooLarge,
    RemoteError,
    WireError,
)
from transports.http_stream import HttpStream, headers_of
from transports.rest_server import IS_READY, PATHS, READY, RestServer, body_limit, heading
from transports.sockets import DeadlineSocket, Expired

__all__ = ["Rest"]


class Rest(Transport):
    """HTTP/1.1, with mutual TLS where the options name its files."""

    name = "rest"
    codecs = tuple(PATHS)

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        return RestServer(handler, Address(host, port), workers, self.options, self._tls)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0) -> Connection:
        codec = self.check_codec(codec)
        deadline = time.monotonic() + timeout
        try:
            sock = tls.dialled(socket.create_connection(address, timeout), address.host, self._tls)
        except OSError as error:
            raise ConnectError(f"no connection to {address}: {error}") from None
        return RestConnection(sock, address, codec, self.options, deadline)


class RestConnection(Connection):
    """Raises `ConnectError` when no server of ours is ready at the other end by `deadline`."""

    def __init__(self, sock: DeadlineSocket, address: Address, codec: str, options: Limits, deadline: float) -> None:
        self.sock = sock
        self._address = address
        self._codec = codec
        self._options = options
        self._stream = HttpStream(sock, h11.CLIENT)
        try:
            with self._errors(deadline):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sock.greet()
                self._check_ready()
        except WireError as error:
            self.close()
            raise ConnectError(f"nobody serves splitbench over REST there: {error}") from None

    def call(self, message: Message, timeout: float) -> Message:
        if self.closed:
            raise ConnectionLost(f"the connection to {self._address} is closed")
        deadline = time.monotonic() + timeout
        body = json_codec.write(check_message(message, self._options), self._codec)
        with self._errors(deadline):
            answer = self._exchange("POST", PATHS[self._codec], body, heading(message))
        return check_message(raise_error(json_codec.read(answer, self._options)), self._options)

    def _check_ready(self) -> None:
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

    @contextmanager
    def _errors(self, deadline: float) -> Iterator[None]:
        """The one place where what h11 and sockets raise becomes an error of ours."""
        self.sock.deadline = deadline
        begun = time.monotonic()
        try:
            yield
        except MessageTooLarge:  # the body was thrown away whole: the connection is still in step
            raise
        except Expired:
            waited = deadline - begun
            raise self._dropped(DeadlineExceeded(f"{self._address} gave no answer within {waited:.3g} s")) from None
        except (EOFError, OSError) as error:
            raise self._dropped(ConnectionLost(f"{self._address} went away: {error}")) from None
        except (h11.ProtocolError, WireError) as error:
            raise self._dropped(RemoteError(f"{self._address} broke the protocol: {error}")) from None

    def _dropped(self, error: WireError) -> WireError:
        self.close()
        return error

    def close(self) -> None:
        self.closed = True
        self.sock.close()
