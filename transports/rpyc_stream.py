"""What lies under the RPyC transports: a stream with a deadline and a channel with a limit.

RPyC's framing, compression and pieces are its own; only what a hostile or stalled peer could exploit is replaced:
  - `SocketStream.read` retries a socket's timeout for ever, so a peer that stalls inside a frame holds the call.
  - `Channel.recv` believes any length up to 4 GB, and inflates whatever it is sent.
"""

from __future__ import annotations

import math
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any, Self

from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream
from rpyc.lib import Timeout

from transports.brine_codec import survey
from transports.errors import MessageTooLarge
from transports.limits import ENVELOPE
from transports.sockets import DeadlineSocket, Expired, deadline_socket

REFUSED = 2
"""Marks, where RPyC says 1 for compressed, a frame that tells a peer why its own one was thrown away."""


class DeadlineStream(SocketStream):  # type: ignore[misc]
    """RPyC's own stream, over a `DeadlineSocket`."""

    sock: DeadlineSocket

    @classmethod
    def over(cls, sock: socket.socket) -> Self:
        """The stream that takes the connected `sock` over."""
        sock.settimeout(None)
        return cls(deadline_socket(sock))

    def poll(self, timeout: Any) -> bool:
        """Whether there is something to read within `timeout` seconds. Raises `Expired` at the socket's deadline."""
        asked, left = Timeout(timeout).timeleft(), self.sock.deadline - time.monotonic()
        if asked is not None and asked < left:
            return self.sock.readable(asked)
        if self.sock.readable(None if left == math.inf else max(0.0, left)):
            return True
        raise Expired


class BoundedChannel(Channel):  # type: ignore[misc]
    """RPyC's own channel, which throws away a frame above its limit instead of taking it, and stays in step."""

    stream: DeadlineStream
    compress: bool
    limit: int

    def __init__(self, stream: DeadlineStream, compress: bool, limit: int) -> None:
        super().__init__(stream, compress=compress)
        self.limit = limit

    def recv(self) -> Any:
        """The next packet. Raises `MessageTooLarge` for one above the limit, at either end, and `EOFError`."""
        length, flag = self.FRAME_HEADER.unpack(self.stream.read(self.FRAME_HEADER.size))
        if length > self.limit + ENVELOPE:
            self._throw_away(length + len(self.FLUSHER))
            raise MessageTooLarge(f"a frame of {length} bytes is above the limit of {self.limit} bytes")
        data = self.stream.read(length + len(self.FLUSHER))[: -len(self.FLUSHER)]
        packet = PAYLOADS[flag](self, data) if flag in PAYLOADS else self._broken(flag)
        survey(packet)
        return packet

    def send(self, data: Any) -> None:
        """Raises `MessageTooLarge` before anything is sent."""
        if len(data) > self.limit + ENVELOPE:
            raise MessageTooLarge(f"a packet of {len(data)} bytes is above the limit of {self.limit} bytes")
        self._put(data)

    def _put(self, data: Any) -> None:
        super().send(data)

    def refuse(self, why: str) -> None:
        """Tell the peer why its packet was thrown away; its `recv` raises that."""
        text = why.encode()
        self.stream.write(self.FRAME_HEADER.pack(len(text), REFUSED) + text + self.FLUSHER)

    def _throw_away(self, count: int) -> None:
        while count:
            count -= len(self.stream.read(min(count, self.stream.MAX_IO_CHUNK)))

    def _inflate(self, data: Any) -> bytes:
        bounded = zlib.decompressobj()
        packet = bounded.decompress(data, self.limit + ENVELOPE)
        if not bounded.eof:
            raise MessageTooLarge(f"a packet inflates above the limit of {self.limit} bytes from {len(data)} bytes")
        return packet

    def _refused(self, data: Any) -> Any:
        raise MessageTooLarge(bytes(data).decode(errors="replace"))

    def _broken(self, flag: int) -> Any:
        self.close()
        raise EOFError(f"a frame with the flag {flag} is none of RPyC's")


PAYLOADS: dict[int, Callable[[BoundedChannel, Any], Any]] = {
    0: lambda _, data: data,
    1: BoundedChannel._inflate,
    REFUSED: BoundedChannel._refused,
}
"""Flag of a frame -> what makes its packet of its bytes."""
