"""The server of ZeroMQ: one ROUTER, which threads use in turns.

Rules:
  - Two threads must not use a ROUTER at the same time, so `_lock` guards it. Idle threads wait for its descriptor and
    for a pipe, in one epoll object. The descriptor is edge-triggered, so that an event wakes one thread only: further
    threads would compete with it for the lock and the interpreter.
  - The descriptor tells only that something has happened since the socket was last used. So a thread asks the socket
    for messages before it waits, and writes to the pipe if it leaves a message there.
  - The thread that takes a message handles it. There is one more thread than `workers`, which refuses calls when all
    workers are busy. With `when_full=wait` there is no such thread, and calls wait in ZeroMQ's queues.
  - Threads start when they are needed. The server has its own ZeroMQ context, so it can wait until the port is free.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from contextlib import suppress
from functools import partial

import zmq
from zmq.auth.thread import ThreadAuthenticator

from transports import zmq_frames as frames
from transports.address import Address
from transports.base import Handler, Server, failure
from transports.errors import ConnectError, MalformedMessage
from transports.limits import GRACE
from transports.serving import guard, respond
from transports.sockets import Deadline
from transports.zmq_options import Curve, ZmqOptions

DOMAIN = "splitbench"
"""With a domain, ZeroMQ refuses peers with the oldest versions of its protocol, for which it would wait for ever."""

Request = tuple[bytes, bytes, frames.Parts]
"""A message: the id of its sender, its first frame, and its other frames."""


class ZmqServer(Server):
    """Raises `ConnectError` when the port cannot be bound."""

    def __init__(
        self, handler: Handler, address: Address, workers: int, limits: ZmqOptions, curve: Curve | None
    ) -> None:
        self._handler = guard(handler, limits, workers)
        self._limits = limits
        self._most = workers + (limits.when_full == "refuse")
        self._taking = True
        """Whether the server accepts more calls."""
        self._busy = 0
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._context = zmq.Context()
        self._authenticator = ThreadAuthenticator(self._context) if curve else None
        self._socket = self._context.socket(zmq.ROUTER)
        self._news = select.epoll()
        self._woken, self._wake = os.pipe()
        for end in (self._woken, self._wake):
            os.set_blocking(end, False)
        try:
            self._bind(address, curve)
        except (OSError, ValueError, zmq.ZMQError) as error:
            self._release(0)
            raise ConnectError(f"cannot bind {address}: {error}") from None
        self._news.register(self._socket.fileno(), select.EPOLLIN | select.EPOLLET)
        self._news.register(self._woken, select.EPOLLIN)
        self._start()

    def _bind(self, address: Address, curve: Curve | None) -> None:
        """Configure and bind the socket. Raises `OSError`, `ValueError` and `zmq.ZMQError`."""
        frames.configure(self._socket, self._limits)
        patience = math.ceil(1000 * self._limits.stall)
        self._socket.handshake_ivl = self._socket.heartbeat_ivl = self._socket.heartbeat_timeout = patience
        self._socket.zap_domain = DOMAIN.encode()
        if curve is not None and self._authenticator is not None:
            self._authenticator.start()
            self._authenticator.configure_curve(DOMAIN, curve.clients)
            self._socket.curve_server = True
            self._socket.curve_publickey, self._socket.curve_secretkey = curve.public, curve.secret
        self._socket.bind(frames.endpoint(address))
        bound = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self.address = Address(address.host, int(bound.rpartition(":")[2]))

    def drain(self, seconds: float) -> None:
        """Also answers requests that have arrived and wait in queues. Closes the port and the connections at the end.

        ZeroMQ cannot close the port (`unbind`) without closing the connections.
        """
        deadline = Deadline.after(seconds)
        if self._stopped(deadline):
            self._release(math.ceil(1000 * deadline.left()))

    def close(self) -> None:
        """Fails the calls in progress at once, then waits up to `GRACE` seconds for handlers that still run."""
        self._end()
        self._release(0)
        self._stopped(Deadline.after(GRACE))

    def _end(self) -> None:
        """Let every thread end once no message is left."""
        with self._lock:
            if self._taking:
                self._taking = False
                self._wake_up()

    def _stopped(self, deadline: Deadline) -> bool:
        """Whether all threads have ended by `deadline`."""
        self._end()
        with self._lock:
            others = [thread for thread in self._threads if thread is not threading.current_thread()]
        for thread in others:
            thread.join(deadline.left())
        return not any(thread.is_alive() for thread in others)

    def _release(self, linger: int) -> None:
        """Close the socket after at most `linger` milliseconds for sending, and free the port. Idempotent."""
        with self._lock:
            if self._socket.closed:
                return
            self._socket.close(linger)
            if self._authenticator is not None:
                self._authenticator.stop()
            self._context.term()
            self._close_descriptors()

    def _close_descriptors(self) -> None:
        """Close the descriptors for which idle threads wait, if the socket is closed and no thread is left."""
        if self._socket.closed and not self._threads:
            self._news.close()
            os.close(self._woken)
            os.close(self._wake)

    def _wake_up(self) -> None:
        """Wake an idle thread, if there is one."""
        with suppress(BlockingIOError):  # the pipe is full, so a thread wakes anyway
            os.write(self._wake, b"\0")

    def _start(self) -> None:
        thread = threading.Thread(target=self._work, name=f"zmq-{self.address.port}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _work(self) -> None:
        reply: frames.Parts = []
        try:
            while found := self._next(reply):
                identity, first, rest = found
                reply = [identity, *self._reply(first, rest)]
        finally:
            with self._lock:
                self._wake_up()  # so that the next thread ends, too
                self._threads.remove(threading.current_thread())
                self._close_descriptors()

    def _next(self, reply: frames.Parts) -> Request | None:
        """Send `reply` unless it is empty, and wait for the next message; None once the server accepts no more."""
        while True:
            with self._lock:
                self._busy -= bool(reply)
                if self._socket.closed:
                    return None
                if reply:
                    frames.send(self._socket, reply)
                    reply = []
                if found := self._taken():
                    return found
                if not self._taking:
                    return None
            for descriptor, _ in self._news.poll():
                if descriptor == self._woken:
                    with suppress(BlockingIOError):  # another thread has emptied the pipe
                        os.read(self._woken, 2**16)

    def _taken(self) -> Request | None:
        """The next message; None if there is none. Wakes or starts another thread for the message after it."""
        if not frames.arrived(self._socket):
            return None
        found = self._socket.recv(frames.LAST), *frames.receive(self._socket)
        self._busy += 1
        if self._busy == len(self._threads) < self._most:
            self._start()
        elif frames.arrived(self._socket):
            self._wake_up()
        return found

    def _reply(self, first: bytes, rest: frames.Parts) -> frames.Parts:
        limit, reply = self._limits.max_message, frames.READY
        try:
            limit, deadline, joined = frames.opened(first)
            if joined[0]:
                write = partial(frames.write, limit=limit)
                reply = respond(self._handler, (joined, rest), frames.read, write, lambda: time.monotonic() > deadline)
        except MalformedMessage as error:
            reply = frames.write(failure(error), limit)
        return frames.headed(reply, self._limits.max_message, time.monotonic())
