"""The client of ZeroMQ: a DEALER for each connection, and the events that say whether its peer is there.

Rules:
  - A DEALER never reconnects by itself, since that would hide that a call is lost.
  - All connections of a process share its ZeroMQ context, which has one thread of the library.
"""

from __future__ import annotations

import itertools
import math
import select
import time
from contextlib import suppress
from typing import Final

import zmq
from zmq.utils.monitor import parse_monitor_message

from transports import zmq_frames as frames
from transports.address import Address
from transports.base import Connection, Message
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    WireError,
)
from transports.sockets import HANGUP, Deadline
from transports.zmq_options import Curve, ZmqOptions

SOCKETS = 2**14
"""Sockets that a context may have. ZeroMQ's own default of 1023 is enough for 341 connections."""
LOOK = 0.05
"""Seconds between two looks whether the connection still stands while an answer is awaited."""
NUMBERS = itertools.count()
"""A number for each connection of the process, in the name of its monitor."""
ENDED: Final[dict[int, str]] = {
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_DISCONNECTED: "it has closed the connection",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "its protocol or its protection is another one",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it refused the key of this end",
}
"""Event after which a connection cannot be used -> the reason."""


class ZmqConnection(Connection):
    """Raises `ConnectError` unless a server of splitbench is ready at `address` by `deadline`."""

    def __init__(self, address: Address, options: ZmqOptions, curve: Curve | None, deadline: Deadline) -> None:
        super().__init__(address, options)
        self._most = options.max_message
        """Bytes of tensors that the server takes; before it has said so, those that this end sends."""
        self._ahead = float("-inf")
        """Seconds that the server's clock is ahead of this one. An answer shows them less the time that it took."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        context.set(zmq.MAX_SOCKETS, SOCKETS)
        self._socket = context.socket(zmq.DEALER)
        self._monitor = context.socket(zmq.PAIR)
        self._patience = -1
        """Milliseconds for which the socket waits for a message; -1 is no limit."""
        self._peer = -1
        """The descriptor of the TCP connection, which belongs to ZeroMQ."""
        try:
            self._open(curve)
            if self.exchange(frames.READY, deadline) != ((b"", b""), []):
                raise MalformedMessage("its first answer was something else than that it is ready")
        except (WireError, OSError, ValueError) as error:
            self.close()
            raise ConnectError(f"nobody serves splitbench over ZeroMQ at {address}: {error}") from None
        except BaseException:
            self.close()
            raise

    def _open(self, curve: Curve | None) -> None:
        """Begin to connect. Raises `OSError`, `ValueError` and `zmq.ZMQError`."""
        frames.configure(self._socket, self.limits)
        self._socket.sndhwm = 0  # no limit: there is one message at a time, but ZeroMQ may see late that it has gone
        self._socket.reconnect_ivl = -1
        if curve is not None:
            self._socket.curve_publickey, self._socket.curve_secretkey = curve.public, curve.secret
            self._socket.curve_serverkey = curve.server
        name = f"inproc://splitbench-{next(NUMBERS)}"
        self._socket.monitor(name, zmq.EVENT_CONNECTED | sum(ENDED))
        self._monitor.connect(name)
        self._socket.connect(frames.endpoint(self.address))

    def encode(self, message: Message) -> frames.Outgoing:
        return frames.write(message, self._most)

    def exchange(self, request: frames.Outgoing, deadline: Deadline) -> tuple[frames.Joined, frames.Parts]:
        try:
            frames.send(self._socket, frames.headed(request, self.limits.max_message, deadline.moment + self._ahead))
            first, rest = self._answer(deadline)
        except (WireError, zmq.ZMQError) as error:
            self.close()
            raise error if isinstance(error, WireError) else ConnectionLost(f"{self.address}: {error}") from None
        self._most, sent, joined = frames.opened(first)
        self._ahead = max(self._ahead, sent - time.monotonic())
        return joined, rest

    def _answer(self, deadline: Deadline) -> tuple[bytes, frames.Parts]:
        """The next message. Raises `DeadlineExceeded` and `ConnectionLost`."""
        while left := deadline.left():
            self._wait(math.ceil(1000 * min(left, LOOK)))
            try:
                return frames.receive(self._socket, 0)
            except zmq.Again:
                pass
            if reason := self._ended():
                with suppress(zmq.Again):  # the answer may have come since
                    return frames.receive(self._socket)
                raise ConnectionLost(f"{self.address} went away: {reason}")
        raise DeadlineExceeded(f"{self.address} gave no answer within {deadline.given:.3g} s")

    def _wait(self, milliseconds: int) -> None:
        """Let the socket wait so long for a message."""
        if milliseconds != self._patience:
            self._socket.rcvtimeo = self._patience = milliseconds

    def _ended(self) -> str:
        """Read the events of the monitor that are there: why the connection has ended, empty where it has not."""
        while self._monitor.poll(0):
            event = parse_monitor_message(self._monitor.recv_multipart())
            if reason := ENDED.get(int(event["event"])):
                return reason
            self._peer = event["value"]
        return ""

    def decode(self, answer: tuple[frames.Joined, frames.Parts]) -> Message:
        return frames.read(answer)

    def stale(self) -> bool:
        """ZeroMQ's thread notices the end of a connection a little later than the kernel."""
        if self.closed or self._socket.poll(0) or self._ended():
            return True
        if self._peer < 0:  # the first answer was faster than the event of its connection
            return False
        kernel = select.poll()
        kernel.register(self._peer, HANGUP)
        return bool(kernel.poll(0))

    def close(self) -> None:
        """Stop the monitor first: with nobody to take its events, ZeroMQ's thread would wait for good."""
        self.closed = True
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._socket.close()
        self._monitor.close()
