"""Sockets whose operations end at a deadline: TCP, Unix and TLS."""

from __future__ import annotations

import math
import select
import socket
import ssl
import struct
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, TypeVar

import msgspec

Result = TypeVar("Result")

KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""With these settings, if the system has them, a connection whose peer has vanished fails after a minute and a half."""

PIECE = 2**18
"""Most bytes that one TLS write sends. A peer must take each such piece within `patience` seconds."""

TIMEVAL = struct.Struct("ll")
"""The kernel's `struct timeval`: seconds and microseconds."""

UNIX_BUFFER = 2**21
"""Bytes that a Unix socket may hold for its peer, if the kernel allows so many. With the kernel's own 208 kB, a sender
of a megabyte waits for its receiver several times."""

SLACK = 0.01
"""An operation may end after its deadline by this share of the time left, or of a second if more is left."""

HANGUP = getattr(select, "POLLRDHUP", 0)
"""The event that a peer has closed its end. Only Linux has it; elsewhere `gone` is always False."""


class Deadline(msgspec.Struct, frozen=True, gc=False):
    """The moment at which an operation must have ended, and the time that it was given, for error texts."""

    moment: float
    """Seconds of `time.monotonic()`."""
    given: float
    """Duration in seconds."""

    @classmethod
    def after(cls, seconds: float) -> Deadline:
        return cls(time.monotonic() + seconds, seconds)

    def left(self) -> float:
        """Seconds that are left, 0 at least."""
        return max(0.0, self.moment - time.monotonic())


class Expired(Exception):
    """The time of a socket operation is over. It is no `OSError`, which RPyC would take for a closed connection."""


class DeadlineSocket(socket.socket):
    """A blocking socket whose operations raise `Expired` at `deadline`, or after `patience` without progress.

    The kernel keeps the time (SO_RCVTIMEO, SO_SNDTIMEO). These options are set again only when the time left differs by
    more than `SLACK`, so that most operations take one system call. Python's own timeouts would add two calls to each.
    """

    deadline: float = math.inf
    """The moment of `time.monotonic()` after which every operation raises `Expired`."""
    patience: float = math.inf
    """Seconds for which one operation waits for the peer."""
    wait_all: int = socket.MSG_WAITALL
    """The flag with which `recv_into` returns only once the whole buffer is full, if the socket supports it."""
    deaf: bool = False
    """Whether this end has shut down reading. The kernel then reports the peer as gone even if it is there."""

    def greet(self) -> None:
        """Do the TLS handshake, if the socket uses TLS."""

    def held(self) -> bool:
        """Whether received bytes are buffered in this process, so that polling the descriptor does not show them."""
        return False

    def readable(self, timeout: float | None) -> bool:
        """Whether data or the end of the stream arrives within `timeout` seconds (None: without a limit)."""
        return self.held() or bool(self._poller(select.POLLIN).poll(None if timeout is None else timeout * 1000))

    def gone(self) -> bool:
        """Whether the peer has closed its end, even if received data is still unread."""
        return not self.deaf and bool(self._poller(HANGUP).poll(0))

    @cached_property
    def _pollers(self) -> dict[int, select.poll]:
        return {}

    def _poller(self, events: int) -> select.poll:
        """The object that polls for `events`; made once, since only one thread uses the socket at a time."""
        if events not in self._pollers:
            self._pollers[events] = select.poll()
            self._pollers[events].register(self, events)
        return self._pollers[events]

    @cached_property
    def _timeouts(self) -> dict[int, float]:
        """Socket option -> the timeout in seconds that the kernel was last given."""
        return {socket.SO_RCVTIMEO: math.inf, socket.SO_SNDTIMEO: math.inf}

    def _left(self) -> float:
        """Seconds that the next operation may take. Raises `Expired` if there are none."""
        left = self.patience
        if self.deadline != math.inf and (rest := self.deadline - time.monotonic()) < left:
            left = rest
        if left <= 0:
            raise Expired
        return left

    def _within(self, option: int, operation: Callable[..., Result], *arguments: Any) -> Result:
        left = self._left()
        if not left <= self._timeouts[option] <= left + (SLACK if left >= 1.0 else SLACK * left):
            given = left + SLACK / 2 * min(left, 1.0)  # so that operations of one call set the option once
            seconds = 0.0 if given == math.inf else max(given, 1e-5)  # for the kernel, 0 means no limit
            self.setsockopt(socket.SOL_SOCKET, option, TIMEVAL.pack(int(seconds), int(seconds % 1 * 1e6)))
            self._timeouts[option] = given
        try:
            return operation(*arguments)
        except BlockingIOError:
            raise Expired from None

    def connect(self, address: Any) -> None:
        self._within(socket.SO_SNDTIMEO, super().connect, address)

    def recv(self, *arguments: Any) -> bytes:
        return self._within(socket.SO_RCVTIMEO, super().recv, *arguments)

    def recv_into(self, *arguments: Any) -> int:
        return self._within(socket.SO_RCVTIMEO, super().recv_into, *arguments)

    def recv_first(self, buffer: memoryview) -> int:
        """Receive the first bytes of a message into `buffer`. The peer may be idle for longer than `patience`."""
        while True:
            try:
                return self.recv_into(buffer)
            except Expired:
                if self.deadline <= time.monotonic():
                    raise

    def send(self, *arguments: Any) -> int:
        return self._within(socket.SO_SNDTIMEO, super().send, *arguments)

    def sendall(self, data: Any, *_: Any) -> None:
        send_all(self, [data])

    def sendmsg(self, *arguments: Any) -> int:
        """Send bytes of several buffers with one call, and return how many bytes were sent."""
        return self._within(socket.SO_SNDTIMEO, super().sendmsg, *arguments)


class UnixSocket(DeadlineSocket):
    """A `DeadlineSocket` over a Unix socket, where the kernel's time limit holds for each piece of a `sendmsg`."""

    def ancillary(self) -> list[Any]:
        """Ancillary data to send with the next bytes, in the form of `socket.sendmsg`."""
        return []

    def sendmsg(self, buffers: Any, *_: Any) -> int:
        while True:
            left = self._left()
            try:
                return socket.socket.sendmsg(self, buffers, self.ancillary(), socket.MSG_DONTWAIT)
            except BlockingIOError:
                self._poller(select.POLLOUT).poll(None if left == math.inf else left * 1000)


class TlsSocket(DeadlineSocket, ssl.SSLSocket):
    """A `DeadlineSocket` over TLS, which supports only Python's timeouts. `ssl.SSLContext.sslsocket_class` makes it."""

    wait_all = 0

    def greet(self) -> None:
        """Do the handshake. Raises `ssl.SSLError` for a peer whose certificate is not accepted, and `Expired`."""
        self._within(0, self.do_handshake)

    def _within(self, option: int, operation: Callable[..., Result], *arguments: Any) -> Result:
        left = self._left()
        self.settimeout(None if left == math.inf else left)
        try:
            return operation(*arguments)
        except TimeoutError:
            raise Expired from None

    def held(self) -> bool:
        return self.pending() > 0

    def sendmsg(self, buffers: Any, *_: Any) -> int:  # type: ignore[override]
        """Send a piece of the first buffer: TLS cannot send several, and does not report progress within one."""
        return self.send(memoryview(buffers[0])[:PIECE])


def deadline_socket(sock: socket.socket) -> DeadlineSocket:
    """A `DeadlineSocket` that takes over the connected `sock`."""
    if isinstance(sock, DeadlineSocket):
        return sock
    sock.settimeout(None)
    kind = UnixSocket if sock.family == socket.AF_UNIX else DeadlineSocket
    return kind(fileno=sock.detach())


def keep_alive(sock: socket.socket) -> None:
    """Let the kernel check whether an idle peer of `sock` is still there."""
    if sock.family == socket.AF_UNIX:
        return  # a Unix socket: the kernel closes it when the peer's process ends
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def no_delay(sock: socket.socket) -> None:
    """Send small messages at once (TCP_NODELAY), and large ones over a Unix socket with few waits for the peer."""
    if sock.family == socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNIX_BUFFER)
    else:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def send_all(sock: DeadlineSocket, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    """Send `parts` one after the other, without joining them. Raises `Expired` and `OSError`."""
    sent = sock.sendmsg(parts)
    if sent == sum(map(len, parts)):
        return
    left = _after([memoryview(part) for part in parts], sent)
    while left:
        left = _after(left, sock.sendmsg(left))


def _after(parts: list[memoryview], sent: int) -> list[memoryview]:
    """The rest of `parts` after their first `sent` bytes."""
    while parts and sent >= len(parts[0]):
        sent -= len(parts[0])
        parts = parts[1:]
    return [parts[0][sent:], *parts[1:]] if parts else []
