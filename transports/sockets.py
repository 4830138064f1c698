"""A socket whose operations end in time, plain and under TLS."""

from __future__ import annotations

import math
import select
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

Result = TypeVar("Result")

KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A peer that vanished without a word is noticed after a minute and a half, where the system has these settings."""

PIECE = 2**18
"""Bytes that are written at a time under TLS; a peer that takes fewer within `patience` makes no progress."""

HANGUP = getattr(select, "POLLRDHUP", 0)
"""The event that a peer has closed its end; only Linux has it. Elsewhere nobody is seen to have gone."""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The moment by which something is to be done, and how long that was when it was begun: an error names this."""

    moment: float
    """In seconds of `time.monotonic()`."""
    given: float
    """Seconds."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds, seconds)

    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(0.0, self.moment - time.monotonic())


class Expired(Exception):
    """A socket's time has passed. No `OSError`: RPyC takes every one for a closed connection."""


class DeadlineSocket(socket.socket):
    """A socket whose operations raise `Expired` at the moment `deadline`, or after `patience` without any progress."""

    deadline: float = math.inf
    """`time.monotonic()` after which nothing goes on."""
    patience: float = math.inf
    """Seconds that one operation waits for the peer."""
    deaf: bool = False
    """Whether this end reads no more: then the system says of the peer, too, that it has gone."""

    def greet(self) -> None:
        """Finish what both ends say before the first byte: here nothing."""

    def held(self) -> bool:
        """Whether bytes have arrived that polling the descriptor does not show."""
        return False

    def readable(self, timeout: float | None) -> bool:
        """Whether there is something to read, or nothing will be any more, within `timeout` seconds (None: ever)."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return self.held() or bool(poll.poll(None if timeout is None else timeout * 1000))

    def gone(self) -> bool:
        """Whether the peer has hung up, be there still something to read of it or not."""
        if self.deaf:
            return False
        poll = select.poll()
        poll.register(self, HANGUP)
        return bool(poll.poll(0))

    def _within(self, operation: Callable[..., Result], *arguments: Any) -> Result:
        left = min(self.patience, self.deadline - time.monotonic())
        if left <= 0:
            raise Expired
        self.settimeout(None if left == math.inf else left)
        try:
            return operation(*arguments)
        except TimeoutError:
            raise Expired from None

    def recv(self, *arguments: Any) -> bytes:
        return self._within(super().recv, *arguments)

    def recv_into(self, *arguments: Any) -> int:
        return self._within(super().recv_into, *arguments)

    def send(self, *arguments: Any) -> int:
        return self._within(super().send, *arguments)

    def sendmsg(self, *arguments: Any) -> int:
        """Of several buffers as many bytes as go at once, and their count."""
        return self._within(super().sendmsg, *arguments)


class TlsSocket(DeadlineSocket, ssl.SSLSocket):
    """The same under TLS; `ssl.SSLContext.sslsocket_class` makes it."""

    def greet(self) -> None:
        """The handshake. Raises `ssl.SSLError` for a peer whose certificate is not accepted, and `Expired`."""
        self._within(self.do_handshake)

    def held(self) -> bool:
        return self.pending() > 0

    def sendmsg(self, buffers: Any, *_: Any) -> int:  # type: ignore[override]
        """TLS has no scattered write, and says nothing of its progress: a piece of the first buffer alone."""
        return self.send(memoryview(buffers[0])[:PIECE])


def deadline_socket(sock: socket.socket) -> DeadlineSocket:
    """The `DeadlineSocket` that takes the connected `sock` over."""
    if isinstance(sock, DeadlineSocket):
        return sock
    return DeadlineSocket(fileno=sock.detach())


def keep_alive(sock: socket.socket) -> None:
    """Let the system find out whether an idle peer of `sock` is still there."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def send_all(sock: DeadlineSocket, parts: Sequence[bytes]) -> None:
    """Send `parts` one after the other, without joining them. Raises `Expired` and `OSError`."""
    left = [memoryview(part) for part in parts if part]
    while left:
        left = _after(left, sock.sendmsg(left))


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """What is left of `parts` when their first `sent` bytes are gone."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts[0])
        parts = parts[1:]
    return [parts[0][sent:], *parts[1:]] if parts else []
