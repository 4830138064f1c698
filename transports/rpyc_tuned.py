"""`rpyc-tuned`: RPyC without the three defaults that cost it most on tensors.

No compression, TCP_NODELAY at both ends, and frames that leave in one piece and arrive in one buffer instead of being
copied once for every 64,000 bytes. The frames, brine and the round trip are RPyC's own. Both ends must be tuned.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Any

import numpy as np

from transports.rpyc_stock import RpycStock
from transports.rpyc_stream import BoundedChannel, DeadlineStream
from transports.sockets import send_all


class RpycTuned(RpycStock):
    """RPyC with the settings that suit tensors."""

    name = "rpyc-tuned"

    def channel(self, sock: socket.socket) -> BoundedChannel:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return WholeChannel(WholeStream.over(sock), compress=False, limit=self.options.max_message)


class WholeStream(DeadlineStream):
    """Reads into one buffer, writes from several."""

    MAX_IO_CHUNK = 16 * 2**20

    def read(self, count: int) -> memoryview:
        buffer = np.empty(count, np.uint8).data  # the system gives its memory as it is filled
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
    """RPyC's frames, handed over without slicing or joining them."""

    stream: WholeStream

    def _put(self, data: bytes) -> None:
        self.stream.write_all((self.FRAME_HEADER.pack(len(data), 0), data, self.FLUSHER))
