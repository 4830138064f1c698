"""A Unix socket that passes descriptors beside its bytes."""

from __future__ import annotations

import array
import os
import socket
from contextlib import suppress
from typing import Any

from transports.sockets import UnixSocket

ITEM = array.array("i").itemsize
RECEIVED = 4 * ITEM
"""Most bytes of descriptors that one call receives."""


class ShmSocket(UnixSocket):
    """Sends the descriptors in `outgoing` with the next bytes, and collects received descriptors in `incoming`."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.outgoing: list[int] = []
        """Descriptors to send; the socket closes each after sending it."""
        self.incoming: list[int] = []

    def ancillary(self) -> list[Any]:
        if not self.outgoing:
            return []
        return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", self.outgoing))]

    def sendmsg(self, buffers: Any, *_: Any) -> int:
        sent = super().sendmsg(buffers)
        if self.outgoing:
            _close(self.outgoing)
        return sent

    def recv_into(self, buffer: Any, count: int = 0, flags: int = 0) -> int:
        view = memoryview(buffer)
        received, ancillary, _, _ = self._within(
            socket.SO_RCVTIMEO,
            super().recvmsg_into,
            [view[:count] if count else view],
            socket.CMSG_SPACE(RECEIVED),
            flags | socket.MSG_CMSG_CLOEXEC,
        )
        for level, kind, data in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                self.incoming += array.array("i", data[: len(data) - len(data) % ITEM])
        return int(received)

    def close(self) -> None:
        for descriptors in (self.outgoing, self.incoming):
            _close(descriptors)
        super().close()


def _close(descriptors: list[int]) -> None:
    while descriptors:
        with suppress(OSError):
            os.close(descriptors.pop())
