"""One end of an HTTP/1.1 connection: h11 implements the protocol, a `DeadlineSocket` does the I/O.

Rules:
  - Head and body of a message are sent together, unless the socket takes less.
  - A body is read after its head has been checked. One above a limit is discarded as it arrives, so that both ends
    stay in step and the connection goes on.
  - Every message has a `Content-Length`, so that a lost connection cannot look like the end of a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import h11

from transports.errors import MessageTooLarge
from transports.sockets import DeadlineSocket, send_all

HEAD = 2**14
"""Largest head in bytes: first line and headers."""

PIECE = 2**20
"""Bytes that are read at a time: every piece costs h11 some work."""


class HttpStream:
    """Takes `sock` over. All methods raise `Expired`, `EOFError`, `OSError` and `h11.ProtocolError`."""

    def __init__(self, sock: DeadlineSocket, role: type[h11.CLIENT | h11.SERVER]) -> None:
        self.sock = sock
        self._protocol = h11.Connection(role, max_incomplete_event_size=HEAD)

    def send(self, head: h11.Request | h11.Response, body: bytes) -> None:
        """Send a whole message."""
        parts = [self._protocol.send(head), *self._written(h11.Data(data=body)), *self._written(h11.EndOfMessage())]
        send_all(self.sock, parts)

    def _written(self, event: Any) -> list[bytes]:
        return self._protocol.send_with_data_passthrough(event) or []

    def head(self) -> Any:
        """The next `h11.Request` or `h11.Response`."""
        while isinstance(event := self._next(), h11.InformationalResponse):
            pass
        return event

    def body(self, most: int, length: str | None) -> bytearray:
        """The body after a head whose `Content-Length` is `length`.

        Raises `MessageTooLarge` for more than `most` bytes, before any is read if `length` says so. Call `skip` then.
        """
        _check_body(int(length or 0), most)
        body = bytearray()  # no list of pieces, since a chunk can be one byte
        while isinstance(event := self._next(), h11.Data):
            body += event.data
            _check_body(len(body), most)  # `length` does not bind a body in chunks
        return body

    def skip(self) -> None:
        """Discard the rest of the peer's message."""
        while self._protocol.their_state is h11.SEND_BODY:
            self._next()

    def renew(self) -> bool:
        """Whether the connection goes on after both messages of an exchange."""
        done = (self._protocol.our_state, self._protocol.their_state) == (h11.DONE, h11.DONE)
        if done:
            self._protocol.start_next_cycle()
        return done

    @property
    def may_send(self) -> bool:
        """Whether a response can still be sent, whatever the peer has done."""
        return self._protocol.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def readable(self, timeout: float | None) -> bool:
        """Whether more bytes or the end of the stream arrive within `timeout` seconds (None: without a limit)."""
        return bool(self._protocol.trailing_data[0]) or self.sock.readable(timeout)

    def _next(self) -> Any:
        while (event := self._protocol.next_event()) is h11.NEED_DATA:
            if self._protocol.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                send_all(self.sock, [self._protocol.send(go_on) or b""])
            self._protocol.receive_data(self._received())
        return event

    def _received(self) -> bytes:
        data = self.sock.recv(PIECE)
        if not data:
            raise EOFError("the peer has closed the connection")
        return data


def _check_body(size: int, most: int) -> None:
    if size > most:
        raise MessageTooLarge(f"a body of {size} bytes or more is above the limit of {most} bytes")


def headers_of(head: h11.Request | h11.Response) -> Mapping[str, str]:
    """The headers by their names in lower case."""
    return {name.decode(): value.decode("latin-1") for name, value in head.headers}
