"""One HTTP/1.1 connection: urllib3 implements the protocol, a `DeadlineSocket` does the I/O.

The deadline of that socket holds for a whole call; urllib3's own time limits hold for each read. urllib3's pools are
not used, because they silently reconnect after a connection was lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from http.client import BadStatusLine

from urllib3.connection import HTTPConnection
from urllib3.exceptions import ProtocolError
from urllib3.response import BaseHTTPResponse

from transports.address import Address
from transports.errors import MessageTooLarge
from transports.sockets import DeadlineSocket, no_delay

PIECE = 2**20
"""Most bytes of a body that one call reads."""


class HttpConnection(HTTPConnection):
    """Takes over the connected `sock`. `is_closed` is True after an exchange that ended the connection."""

    sock: DeadlineSocket

    def __init__(self, sock: DeadlineSocket, address: Address) -> None:
        super().__init__(address.host, address.port)
        no_delay(sock)
        self.sock = sock
        self.auto_open = 0  # never reconnect

    def ask(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> BaseHTTPResponse:
        """The head of the answer; `body_of` reads the rest. Raises `Expired`, `EOFError`, `OSError`, `HTTPException`.

        The head must give the length of the body, since `http.client` takes a stream that ends within a head for a
        complete head.
        """
        self.request(method, path, body or None, headers, preload_content=False, decode_content=False)
        try:
            response = self.getresponse()
        except BadStatusLine as error:
            if isinstance(error, OSError) or str(error).endswith("\n"):
                raise
            raise EOFError("the answer ends in its first line") from None
        if response.length_remaining is None and not response.chunked:
            raise EOFError("the answer ends in its head, or gives no length")
        return response


def body_of(response: BaseHTTPResponse, most: int) -> bytearray:
    """The body. Raises `Expired`, `EOFError`, and `MessageTooLarge` above `most` bytes, after discarding the body."""
    size, body = 0, bytearray()
    keep = (response.length_remaining or 0) <= most
    try:
        for piece in response.stream(PIECE):
            size += len(piece)
            if keep and size <= most:
                body += piece
    except ProtocolError as error:
        raise EOFError(str(error)) from None
    if size > most:
        raise MessageTooLarge(f"a body of {size} bytes or more is above the limit of {most} bytes")
    return body
