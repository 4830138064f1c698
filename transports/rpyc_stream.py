"""What lies under the RPyC transports: a socket with a deadline, a channel with a limit, and a server that ends.

RPyC's framing, compression and pieces are its own; only what a hostile or stalled peer could exploit is replaced:
  - `SocketStream.read` retries a socket's timeout for ever, so a peer that stalls inside a frame holds the call.
  - `Channel.recv` believes any length up to 4 GB, and inflates whatever it is sent.
  - `Server.close` leaves its threads behind, and `Connection.close` waits half a minute for a peer that is not there.
"""

from __future__ import annotations

import socket
import threading
import time
import zlib
from collections.abc import Callable
from typing import Any, Self, TypeVar

from rpyc.core.channel import Channel
from rpyc.core.stream import SocketStream
from rpyc.utils import server as rpyc_server

from transports.base import log
from transports.errors import MessageTooLarge

__all__ = ["BoundedChannel", "DeadlineSocket", "DeadlineStream", "Expired", "ThreadedServer"]

ENVELOPE = 2**20
"""Bytes that a frame may take on top of the limit, for names and fields."""

REFUSED = 2
"""Marks, where RPyC says 1 for compressed, a frame that tells a peer why its own one was thrown away."""

GRACE = 5.0
"""Seconds that a closing server waits for handlers that still run."""

Result = TypeVar("Result")


class Expired(Exception):
    """A socket's deadline has passed. No `OSError`: RPyC takes every one for a closed connection."""


class DeadlineSocket(socket.socket):
    """A socket whose operations raise `Expired` once the moment `deadline` (`time.monotonic`) has passed."""

    deadline: float | None = None

    def _within(self, operation: Callable[..., Result], *arguments: Any) -> Result:
        if self.deadline is None:
            return operation(*arguments)
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise Expired
        self.settimeout(left)
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
        return self._within(super().sendmsg, *arguments)


class DeadlineStream(SocketStream):  # type: ignore[misc]
    """RPyC's own stream, over a `DeadlineSocket`."""

    sock: DeadlineSocket

    @classmethod
    def over(cls, sock: socket.socket) -> Self:
        """The stream that takes the connected `sock` over."""
        sock.settimeout(None)
        return cls(DeadlineSocket(fileno=sock.detach()))

    def expire_in(self, timeout: float) -> None:
        """Let everything that follows raise `Expired` after `timeout` seconds. Raises `EOFError` when closed."""
        if self.closed:
            raise EOFError("the stream has been closed")
        self.sock.deadline = time.monotonic() + timeout

    def left(self) -> float:
        """Seconds until the deadline."""
        return 0.0 if self.closed or self.sock.deadline is None else max(0.0, self.sock.deadline - time.monotonic())


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
        return PAYLOADS[flag](self, data) if flag in PAYLOADS else self._broken(flag)

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

    It listens once it is made. Raises `OSError` when the port cannot be bound.
    """

    def __init__(
        self,
        service: Any,
        host: str,
        port: int,
        config: dict[str, Any],
        wrap: Callable[[socket.socket], BoundedChannel],
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
        self._threads: set[threading.Thread] = set()
        self._listen()
        self._accepting = threading.Thread(target=self.start, name=f"rpyc-accept-{self.port}", daemon=True)
        self._accepting.start()

    def _accept_method(self, sock: socket.socket) -> None:
        channel = self._wrap(sock)
        self.clients.discard(sock)
        self.clients.add(channel.stream.sock)
        if not self.active:  # closed meanwhile, by a thread that may not have seen this client
            channel.close()
        thread = threading.Thread(target=self._converse, args=(channel,), name=f"rpyc-{self.port}", daemon=True)
        self._threads.add(thread)
        thread.start()

    def _converse(self, channel: BoundedChannel) -> None:
        """Serve one connection until it ends; whatever a peer does ends no more than its own."""
        sock = channel.stream.sock
        connection = self.service._connect(channel, self.protocol_config)
        try:
            while not connection.closed:
                self._serve_one(connection, channel)
        except EOFError:
            pass
        except Exception as error:
            log.warning("dropped a connection to port %s: %s: %s", self.port, type(error).__name__, error)
        finally:
            channel.close()
            connection.close()
            self.clients.discard(sock)
            self._threads.discard(threading.current_thread())

    @staticmethod
    def _serve_one(connection: Any, channel: BoundedChannel) -> None:
        try:
            connection.serve(None)
        except MessageTooLarge as error:
            channel.refuse(str(error))

    def close(self) -> None:
        super().close()
        deadline = time.monotonic() + GRACE
        for thread in {self._accepting, *self._threads} - {threading.current_thread()}:
            thread.join(max(0.0, deadline - time.monotonic()))
