"""A connection through a relay: a near leg to the caller, a far leg to the server, and a stream in each direction.

    caller --near leg--> forward stream  --far leg--> server
    caller <--near leg-- backward stream <--far leg-- server

The relay accepts the caller at once, but over a real link the TCP handshake would take time. So the relay waits for
these moments, in seconds after it accepted the caller; `there` and `back` are the delays of the two directions:

    there              the SYN arrives at the server: the far leg connects, or its refusal starts to travel back
    there + back       `connect` returns at the caller: its first bytes start to travel
    2 * there + back   `accept` returns at the server: its first bytes start to travel
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from errno import EINPROGRESS
from typing import NamedTuple

from cluster.links.loop import WRITE, Loop
from cluster.links.stream import Direction, End, Leg, Stream


class Target(NamedTuple):
    """The resolved address of a server."""

    family: socket.AddressFamily
    address: tuple[object, ...]


class Connection:
    """Connects a caller, whose accepted socket is `near`, with the server at `target`."""

    def __init__(
        self,
        loop: Loop,
        near: socket.socket,
        target: Target,
        ways: tuple[Direction, Direction],
        closing: Callable[[Connection], None],
    ) -> None:
        """`ways`: the directions from and to the caller. `closing`: called before the far leg is closed."""
        self.far = socket.socket(target.family, socket.SOCK_STREAM)
        self._loop = loop
        self._target = target
        self._closing = closing
        self._near_leg, self._far_leg = Leg(loop, near), Leg(loop, self.far)
        self._forward = Stream(loop, ways[0], self._near_leg, self._far_leg)
        self._backward = Stream(loop, ways[1], self._far_leg, self._near_leg)
        self._forward.opposite, self._backward.opposite = self._backward, self._forward
        self._forward.over = lambda end: self._over(end, self._far_leg)
        self._backward.over = lambda end: self._over(end, self._near_leg)
        self._finished = 0
        self._closed = False
        self._there, self._back = (way.schedule.delay for way in ways)
        self._accepted = time.monotonic()
        loop.at(self._accepted + self._there, self._connect)

    def close(self, hard: bool) -> None:
        """Close both legs; with `hard`, by a TCP reset."""
        if self._closed:
            return
        self._closed = True
        self._closing(self)
        for stream in (self._forward, self._backward):
            stream.close()
        for leg in (self._near_leg, self._far_leg):
            leg.close(hard)

    def _connect(self) -> None:
        if self._closed:
            return
        if self.far.connect_ex(self._target.address) == EINPROGRESS:
            self._far_leg.watch(WRITE, self._settle)
        else:
            self._settle()

    def _settle(self) -> None:
        """Handle that the far leg is connected, or was refused."""
        self._far_leg.watch(WRITE, None)
        begun = self._accepted + self._there + self._back
        if _connected(self.far):
            self._forward.begin(begun)
            self._backward.begin(begun + self._there)
        else:
            self._backward.fail()

    def _over(self, end: End, sink: Leg) -> None:
        """Handle that the end of a stream has been delivered to `sink`."""
        if end is End.RESET:
            self.close(hard=True)
            return
        with suppress(OSError):  # the peer has gone
            sink.sock.shutdown(socket.SHUT_WR)
        self._finished += 1
        if self._finished == 2:
            self.close(hard=False)


def _connected(sock: socket.socket) -> bool:
    """Whether `sock` is connected to a server.

    If nothing listens at a local port, the system may give that port to `sock` itself, which then connects to itself.
    """
    try:
        return bool(sock.getpeername() != sock.getsockname())
    except OSError:
        return False
