"""RPyC's streams and channels with deadlines and limits; and the tuned ones, which do not copy frames.

RPyC's framing, compression and pieces stay. Replaced is what a hostile or stalled peer could exploit:
  - `SocketStream.read` retries a socket's timeout for ever, so a peer that stalls inside a frame holds the call.
  - `Channel.recv` allocates any announced length up to 4 GB, and inflates without a bound.
"""

from __future__ import annotations

import math
import socket
import time
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np
from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream
from rpyc.lib import Timeout

from transports.brine_codec import survey
from transports.errors import MessageTooLarge
from transports.limits import ENVELOPE
from transports.sockets import DeadlineSocket, Expired, deadline_socket, send_all

REFUSED = 2
"""A third value of RPyC's compression flag: the frame says why the peer's last frame was discarded."""


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
    """RPyC's channel, but it reads and discards a frame above its limit, so that both ends stay in step."""

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
        """Send the reason for which the peer's packet was discarded; the peer's `recv` raises it."""
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
"""Flag of a frame -> the function that makes the packet from its bytes."""


class WholeStream(DeadlineStream):
    """A stream that reads a frame into one buffer and writes from several."""

    MAX_IO_CHUNK = 16 * 2**20

    def read(self, count: int) -> memoryview:
        buffer = np.empty(count, np.uint8).data  # the system provides the memory as it is filled
        done = 0
        while done < count:
            done += self._received(self.sock.recv_into, buffer[done:])
        return buffer

    def _received(self, operation: Any, buffer: memoryview) -> int:
        try:
            size: int = operation(buffer)
        except OSError as error:
            self.close()
            raise EOFError(error) from None
        if not size:
            self.close()
            raise EOFError("connection closed by peer")
        return size

    def write_all(self, parts: Sequence[bytes]) -> None:
        """Write `parts` one after the other, without joining them. Raises `EOFError`."""
        try:
            send_all(self.sock, parts)
        except OSError as error:
            self.close()
            raise EOFError(error) from None


class WholeChannel(BoundedChannel):
    """RPyC's frames, neither sliced nor joined."""

    stream: WholeStream

    def _put(self, data: bytes) -> None:
        self.stream.write_all((self.FRAME_HEADER.pack(len(data), 0), data, self.FLUSHER))
