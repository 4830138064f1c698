"""What lies under the RPyC transports: a socket with a deadline, a channel with a limit, and a server that ends.

RPyC's framing, compression and pieces are its own; only what a hostile or stalled peer could exploit is replaced:
  - `SocketStream.read` retries a socket's timeout for ever, so a peer that stalls inside a frame holds the call.
  - `Channel.recv` believes any length up to 4 GB, and inflates whatever it is sent.
  - `Server.close` leaves its threads behind, and `Connection.close` waits half a minute for a peer that is not there.
"""

from __future__ import annotations

import logging
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, Self

from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream
from rpyc.utils import server as rpyc_server

from transports.base import log
from transports.brine_codec import survey
from transports.errors import MessageTooLarge
from transports.limits import CONNECTIONS, ENVELOPE, GRACE, Limits
from transports.sockets import DeadlineSocket, Expired, deadline_socket, keep_alive

__all__ = ["BoundedChannel", "DeadlineStream", "ThreadedServer"]

REFUSED = 2
"""Marks, where RPyC says 1 for compressed, a frame that tells a peer why its own one was thrown away."""


class DeadlineStream(SocketStream):  # type: ignore[misc]
    """RPyC's own stream, over a `DeadlineSocket`."""

    sock: DeadlineSocket

    @classmethod
    def over(cls, sock: socket.socket) -> Self:
        """The stream that takes the connected `sock` over."""
        sock.settimeout(None)
        return cls(deadline_socket(sock))

    def poll(self, timeout: Any) -> bool:
        """Whether there is something to read within `timeout` seconds."""
        held: bool = self.sock.held() or super().poll(timeout)
        return held

    def gone(self) -> bool:
        """Whether the peer has hung up, be there still something to read of it or not."""
        return self.sock.gone()

    def expire_in(self, timeout: float) -> None:
        """Let everything that follows raise `Expired` after `timeout` seconds. Raises `EOFError` when closed."""
        if self.closed:
            raise EOFError("the stream has been closed")
        self.sock.deadline = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds until the deadline."""
        return 0.0 if self.closed else max(0.0, self.sock.deadline - time.monotonic())


class BoundedChannel(Channel):  # type: ignore[misc]
    """RPyC's own channel, which throws away a frame above its limit instead of taking it, and stays in step."""

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
        """Tell the peer why its packet was thrown away; its `recv` raises that."""
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
"""Flag of a frame -> what makes its packet of its bytes."""


class ThreadedServer(rpyc_server.ThreadedServer):  # type: ignore[misc]
    """RPyC's server with a thread for each connection, all of which end when it closes.

    It listens once it is made. A peer that has begun a handshake or a frame, or has yet to say its first word, and does
    not go on for `stall` seconds is dropped. Raises `OSError` when the port cannot be bound.
    """

    def __init__(
        self,
        service: Any,
        host: str,
        port: int,
        config: dict[str, Any],
        wrap: Callable[[socket.socket], BoundedChannel],
        stall: float = Limits.stall,
    ) -> None:
        # No timeout on the listener: closing it wakes the loop.
        super().__init__(
            service,
            hostname=host,
            port=port,
            ipv6=":" in host,
            auto_register=False,
            protocol_config=dict(config),
            listener_timeout=None,
            logger=log,
        )
        self._wrap = wrap
        self._stall = stall
        self._pause = threading.Event()
        self._threads: set[threading.Thread] = set()
        self._listen()
        self._accepting = threading.Thread(target=self.start, name=f"rpyc-accept-{self.port}", daemon=True)
        self._accepting.start()

    def accept(self) -> None:
        """Take the next connection. RPyC ends the server when that fails, be it for want of a descriptor."""
        try:
            super().accept()
        except EOFError as error:
            if not self.active:
                raise
            log.warning("could not accept a connection to port %s: %s", self.port, error)
            self._pause.wait(0.05)

    def _accept_method(self, sock: socket.socket) -> None:
        thread = threading.Thread(target=self._converse, args=(sock,), name=f"rpyc-{self.port}", daemon=True)
        try:
            if len(self._threads) >= CONNECTIONS:
                raise RuntimeError(f"{CONNECTIONS} connections are open")
            thread.start()
        except RuntimeError as error:
            log.warning("turned a connection to port %s away: %s", self.port, error)
            self.clients.discard(sock)
            sock.close()

    def _converse(self, sock: socket.socket) -> None:
        """Serve one connection until it ends; whatever a peer does ends no more than its own."""
        self._threads.add(threading.current_thread())
        try:
            keep_alive(sock)
            with closing(self._wrap(sock)) as channel, self._known(channel.stream.sock):
                self._admit(channel)
                self._serve(channel)
        except EOFError:
            pass
        except Exception as error:
            level = logging.WARNING if self.active else logging.DEBUG
            log.log(level, "dropped a connection to port %s: %s: %s", self.port, type(error).__name__, error)
        finally:
            sock.close()
            self.clients.discard(sock)
            self._threads.discard(threading.current_thread())

    @contextmanager
    def _known(self, sock: DeadlineSocket) -> Iterator[None]:
        """Let `close` find `sock`. Raises `EOFError` if it has looked already."""
        self.clients.add(sock)
        try:
            if not self.active:
                raise EOFError("the server has closed")
            yield
        finally:
            self.clients.discard(sock)

    def _admit(self, channel: BoundedChannel) -> None:
        """A new peer has `stall` seconds to greet, and as many again to say something. Raises `Expired`, `OSError`."""
        channel.stream.sock.patience = self._stall
        channel.stream.sock.greet()
        if not channel.poll(self._stall):
            raise Expired(f"nothing was said for {self._stall:g} s")

    def _serve(self, channel: BoundedChannel) -> None:
        connection = self.service._connect(channel, self.protocol_config)
        try:
            while not connection.closed:
                self._serve_one(connection, channel)
        finally:
            channel.close()  # first, or RPyC says farewell to a peer that may be gone
            connection.close()

    @staticmethod
    def _serve_one(connection: Any, channel: BoundedChannel) -> None:
        try:
            connection.serve(None)
        except MessageTooLarge as error:
            channel.refuse(str(error))

    def close(self) -> None:
        super().close()
        self._pause.set()
        deadline = time.monotonic() + GRACE
        for thread in {self._accepting, *self._threads} - {threading.current_thread()}:
            thread.join(max(0.0, deadline - time.monotonic()))
