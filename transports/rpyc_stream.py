"""RPyC's streams and channels with deadlines and limits, and tuned variants, which do not copy frames.

This module keeps RPyC's framing, compression and pieces, and replaces parts that a hostile or stalled peer can exploit:
  - `SocketStream.read` retries after every socket timeout, so a peer that stalls inside a frame blocks the call.
  - `Channel.recv` allocates any announced length up to 4 GB, and decompresses without a bound.
"""

from __future__ import annotations

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

COMPRESSED, REFUSED = 1, 2
"""Flags of a frame. RPyC has 0 and 1; a frame with the flag 2 tells why the peer's last frame was discarded."""
SMALL = 2**14
"""Most bytes to receive before the length of a frame is known, and size up to which parts are joined for sending."""


class DeadlineStream(SocketStream):  # type: ignore[misc]
    """RPyC's own stream, over a `DeadlineSocket`. All methods raise `EOFError` and `Expired`."""

    sock: DeadlineSocket

    def __init__(self, sock: DeadlineSocket) -> None:
        super().__init__(sock)
        self.buffer = memoryview(bytearray(SMALL))
        self.ahead = b""  # bytes received, but not read yet

    @classmethod
    def over(cls, sock: socket.socket) -> Self:
        """A stream that takes over the connected `sock`."""
        sock.settimeout(None)
        return cls(deadline_socket(sock))

    def poll(self, timeout: Any) -> bool:
        """Whether data arrives within `timeout` seconds. Without a timeout it does not wait here; `begin` waits."""
        if self.ahead or (asked := Timeout(timeout).timeleft()) is None:
            return True
        left = self.sock.deadline - time.monotonic()
        if self.sock.readable(max(0.0, min(asked, left))):
            return True
        if left <= asked:
            raise Expired
        return False

    def begin(self) -> None:
        """Receive the first bytes of a frame, which may take until the deadline to arrive."""
        if not self.ahead:
            count = self._received(self.sock.recv_first, self.buffer)
            self.ahead = self.buffer[:count].tobytes()

    def read(self, count: int) -> bytes | memoryview:
        """The next `count` bytes."""
        first, self.ahead = self.ahead[:count], self.ahead[count:]
        return first if len(first) == count else self._rest(first, count)

    def _rest(self, first: bytes, count: int) -> bytes | memoryview:
        """`first` and the bytes after it, `count` bytes in all."""
        rest: bytes = super().read(count - len(first))
        return first + rest

    def _received(self, operation: Callable[..., Any], argument: object) -> Any:
        """The result of the socket's `operation`. Raises `EOFError` for its errors and at the end of the stream."""
        try:
            came = operation(argument)
        except OSError as error:
            self.close()
            raise EOFError(error) from None
        if not came:
            self.close()
            raise EOFError("connection closed by peer")
        return came


class BoundedChannel(Channel):  # type: ignore[misc]
    """RPyC's channel, but it reads and discards a frame above its limit, so that both ends stay in step."""

    stream: DeadlineStream
    compress: bool
    limit: int

    def __init__(self, stream: DeadlineStream, compress: bool, limit: int) -> None:
        super().__init__(stream, compress=compress)
        self.limit = limit

    def recv(self) -> Any:
        """The next packet. Raises `MessageTooLarge` for a packet above the limit of either end, and `EOFError`."""
        self.stream.begin()
        length, flag = self.FRAME_HEADER.unpack(self.stream.read(self.FRAME_HEADER.size))
        if length > self.limit + ENVELOPE:
            self._discard(length + len(self.FLUSHER))
            raise MessageTooLarge(f"a frame of {length} bytes is above the limit of {self.limit} bytes")
        data = self.stream.read(length + len(self.FLUSHER))[: -len(self.FLUSHER)]
        packet = self._unfolded(flag, data) if flag else data
        if len(packet) > ENVELOPE:
            survey(packet)
        return packet

    def send(self, data: Any) -> None:
        """Raises `MessageTooLarge` before anything is sent."""
        if len(data) > self.limit + ENVELOPE:
            raise MessageTooLarge(f"a packet of {len(data)} bytes is above the limit of {self.limit} bytes")
        self._send(data)

    def _send(self, data: Any) -> None:
        super().send(data)

    def refuse(self, why: str) -> None:
        """Tell the peer why its packet was discarded; the peer's `recv` raises an error with this text."""
        text = why.encode()
        self.stream.write(self.FRAME_HEADER.pack(len(text), REFUSED) + text + self.FLUSHER)

    def _discard(self, count: int) -> None:
        while count:
            count -= len(self.stream.read(min(count, self.stream.MAX_IO_CHUNK)))

    def _unfolded(self, flag: int, data: Any) -> bytes:
        """The packet in `data`, the content of a frame with `flag`, which is not the packet itself."""
        if flag == REFUSED:
            raise MessageTooLarge(bytes(data).decode(errors="replace"))
        if flag != COMPRESSED:
            self.close()
            raise EOFError(f"a frame with the flag {flag} is none of RPyC's")
        bounded = zlib.decompressobj()
        packet = bounded.decompress(data, self.limit + ENVELOPE)
        if not bounded.eof:
            raise MessageTooLarge(f"a packet inflates above the limit of {self.limit} bytes from {len(data)} bytes")
        return packet


class WholeStream(DeadlineStream):
    """A stream that reads a frame into one buffer and writes from several."""

    MAX_IO_CHUNK = 16 * 2**20

    def _rest(self, first: bytes, count: int) -> memoryview:
        buffer = np.empty(count, np.uint8).data  # the kernel provides pages only as they are written
        done = len(first)
        buffer[:done] = first
        while done < count:
            done += self._received(self.sock.recv_into, buffer[done:])
        return buffer

    def write_all(self, parts: Sequence[bytes]) -> None:
        """Write `parts` one after the other, without joining them."""
        try:
            send_all(self.sock, parts)
        except OSError as error:
            self.close()
            raise EOFError(error) from None


class WholeChannel(BoundedChannel):
    """Sends RPyC's frames without splitting or joining their bytes."""

    stream: WholeStream

    def _send(self, data: bytes) -> None:
        if len(data) <= SMALL:
            super()._send(data)
        else:
            self.stream.write_all((self.FRAME_HEADER.pack(len(data), 0), data, self.FLUSHER))
