"""The client of ZeroMQ: a DEALER for each connection, and the monitor events that tell whether its peer is there.

Rules:
  - A DEALER never reconnects by itself, since that would hide the loss of a call.
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
"""Most sockets of a context. ZeroMQ's own default of 1023 is enough for 341 connections."""
LOOK = 0.05
"""Seconds between two checks of whether the connection still exists, while a client waits for an answer."""
NUMBERS = itertools.count()
"""A number for each connection of the process, for the name of its monitor."""
ENDED: Final[dict[int, str]] = {
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_DISCONNECTED: "it has closed the connection",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "the handshake failed",
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL: "its protocol or its protection is another one",
    zmq.EVENT_HANDSHAKE_FAILED_AUTH: "it refused the key of this end",
}
"""Monitor event after which a connection cannot be used -> the reason, for error texts."""


class ZmqConnection(Connection):
    """A connection over one DEALER. Raises `ConnectError` unless splitbench is served at `address` by `deadline`."""

    def __init__(self, address: Address, options: ZmqOptions, curve: Curve | None, deadline: Deadline) -> None:
        super().__init__(address, options)
        self._most = options.max_message
        """Most bytes of tensors that the server accepts; until its first answer tells, most that this end sends."""
        self._ahead = float("-inf")
        """Seconds by which the server's clock is ahead of this one, estimated from answers: each estimate is too low by
        the time that the answer travelled, so the largest estimate counts."""
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        context.set(zmq.MAX_SOCKETS, SOCKETS)
        self._socket = context.socket(zmq.DEALER)
        self._monitor = context.socket(zmq.PAIR)
        self._patience = -1
        """Milliseconds for which the socket waits for a message; -1: without a limit."""
        self._peer = select.poll()
        """Polls the descriptor of the TCP connection, which belongs to ZeroMQ, once the monitor has reported it."""
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
        self._socket.sndhwm = 0  # no limit: there is one message at a time, but ZeroMQ may notice late that it was sent
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
                with suppress(zmq.Again):  # the answer may have arrived before the connection ended
                    return frames.receive(self._socket)
                raise ConnectionLost(f"{self.address} went away: {reason}")
        raise DeadlineExceeded(f"{self.address} gave no answer within {deadline.given:.3g} s")

    def _wait(self, milliseconds: int) -> None:
        """Set how long the socket waits for a message."""
        if milliseconds != self._patience:
            self._socket.rcvtimeo = self._patience = milliseconds

    def _ended(self) -> str:
        """Read the monitor's events; returns why the connection has ended, or an empty text if it has not."""
        while frames.arrived(self._monitor):
            event = parse_monitor_message(self._monitor.recv_multipart())
            if reason := ENDED.get(int(event["event"])):
                return reason
            self._peer.register(event["value"], HANGUP)
        return ""

    def decode(self, answer: tuple[frames.Joined, frames.Parts]) -> Message:
        return frames.read(answer)

    def stale(self) -> bool:
        """Also polls the kernel, which notices the end of a connection a little earlier than ZeroMQ's thread."""
        return self.closed or frames.arrived(self._socket) or bool(self._ended() or self._peer.poll(0))

    def close(self) -> None:
        """Stops the monitor first: if nothing read its events any more, ZeroMQ's thread would block for ever."""
        self.closed = True
        if not self._socket.closed:
            self._socket.disable_monitor()
        self._socket.close()
        self._monitor.close()
