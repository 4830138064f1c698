"""A proxy that injects the faults of networks into connections: delay, throttle, swallow, truncate, cut.

The fault may be changed while connections are open: `proxy.fault = Fault(rate=2e6)`, and `proxy.fault = NONE` ends it.
Once bytes of a connection were swallowed, it stays silent, like a connection whose state a firewall has forgotten.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal, Self

from transports import Address
from transports.plain_sockets import Tcp, Unix, unix_name
from transports.sockets import no_delay

PATIENCE = 60.0
"""Seconds within which a connection ends, even on a slow machine."""
PIECE = 16 * 2**10
BUFFER = 64 * 2**10
"""Bytes of the kernel's buffers at the proxy: few, since large buffers would hide that a link is throttled."""
HARD = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing a socket resets its connection."""

Way = Literal["request", "answer"]
"""From the client to the server, and back."""


@dataclass(frozen=True)
class Fault:
    """What happens to the bytes of each connection, from the moment that the fault is set."""

    delay: float = 0.0
    """Seconds that each piece waits; the pieces wait one after the other."""
    rate: float = 0.0
    """Bytes per second in each direction; 0 is no limit."""
    end: Literal["nothing", "silence", "close", "reset"] = "nothing"
    """What happens after `after` bytes of `way`: later bytes are swallowed, or the connection is closed or reset."""
    after: int = 0
    way: Way = "request"


NONE = Fault()


@dataclass(eq=False)
class _Link:
    """A client's connection to the proxy, and the proxy's connection to the server for it."""

    client: socket.socket
    server: socket.socket
    silent: threading.Event = field(default_factory=threading.Event)

    def end(self, how: str) -> None:
        for sock in (self.client, self.server):
            with suppress(OSError):
                if how == "reset":
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD)
                # Wakes threads that wait in the socket. SHUT_RD tells the peer nothing before the reset.
                sock.shutdown(socket.SHUT_RD if how == "reset" else socket.SHUT_RDWR)
            sock.close()


def bound(addressing: str) -> tuple[socket.socket, Address]:
    """A socket that listens at a free address."""
    return (Unix() if addressing == "path" else Tcp()).bind(Address("127.0.0.1", 0))


class Proxy:
    """Listens at `address` and forwards every connection to `target`; both addresses are of the kind `addressing`."""

    def __init__(self, target: Address, addressing: str = "host:port") -> None:
        self.target = target
        self._addressing = addressing
        self._fault = NONE
        self._links: set[_Link] = set()
        self._closed = False
        self._news = threading.Condition()
        self._listener, self.address = bound(addressing)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *exc: object) -> None:
        self._closed = True
        self.fault = NONE
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    @property
    def fault(self) -> Fault:
        """The present fault. Setting another fault ends a delay that is under way."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault) -> None:
        with self._news:
            self._fault = fault
            self._news.notify_all()

    def await_hang_up(self) -> None:
        """Return once every connection has been closed at both ends."""
        with self._news:
            assert self._news.wait_for(lambda: not self._links, PATIENCE)

    def cut(self) -> None:
        """Reset every connection that is open."""
        for link in list(self._links):
            link.end("reset")

    def _start(self, work: Callable[..., None], *arguments: object) -> None:
        threading.Thread(target=work, args=arguments, name=f"proxy-{self.address.port}", daemon=True).start()

    def _accept(self) -> None:
        while not self._closed:
            try:
                accepted, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._open, socket.socket(fileno=accepted.detach()))

    def _open(self, client: socket.socket) -> None:
        server = socket.socket(self._listener.family)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        link = _Link(client, server)
        try:
            server.connect(self.target if self._addressing == "host:port" else unix_name(self.target.port))
        except OSError:
            link.end("reset")  # no server listens at the target
            return
        for sock in (client, server):
            no_delay(sock)
        self._links.add(link)
        self._start(self._pump, link, client, server, "request")
        self._start(self._pump, link, server, client, "answer")

    def _pump(self, link: _Link, source: socket.socket, sink: socket.socket, way: Way) -> None:
        fault, passed = self.fault, 0
        with suppress(OSError):
            while True:
                piece, descriptors = _received(source)
                if not piece:
                    break
                if fault is not self.fault:
                    fault, passed = self.fault, 0
                kept = piece if fault.end == "nothing" or fault.way != way else piece[: max(0, fault.after - passed)]
                passed += len(piece)
                self._pass_on(link, kept, sink, fault, descriptors)
                if len(kept) < len(piece):
                    ENDS[fault.end](link)
        if not link.silent.is_set():
            link.end("close")
            with self._news:
                self._links.discard(link)
                self._news.notify_all()

    def _pass_on(
        self, link: _Link, piece: bytes, sink: socket.socket, fault: Fault, descriptors: Sequence[int]
    ) -> None:
        """Send `piece` on with the `descriptors` that came with it, and close these descriptors."""
        if wait := fault.delay + (len(piece) / fault.rate if fault.rate else 0.0):
            with self._news:
                self._news.wait_for(lambda: self._closed or self._fault is not fault, wait)
        try:
            if descriptors and piece and not link.silent.is_set():
                socket.send_fds(sink, [piece[:1]], descriptors)
                piece = piece[1:]
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        if not link.silent.is_set():
            sink.sendall(piece)


def _received(source: socket.socket) -> tuple[bytes, list[int]]:
    """The next bytes, and the descriptors that a Unix socket passes beside them."""
    if source.family != socket.AF_UNIX:
        return source.recv(PIECE), []
    piece, descriptors, _, _ = socket.recv_fds(source, PIECE, 4)
    return piece, descriptors


ENDS: Mapping[str, Callable[[_Link], None]] = {
    "silence": lambda link: link.silent.set(),
    "close": lambda link: link.end("close"),
    "reset": lambda link: link.end("reset"),
}
"""`Fault.end` -> function that does this to the connection."""
