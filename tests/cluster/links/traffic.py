"""Real sockets at both ends of a relay."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator

from cluster.links.link import Link
from cluster.links.relay import Relay
from transports.address import Address

PATIENCE = 20.0
"""Seconds after which a socket of a test gives up."""


@contextlib.contextmanager
def relay(text: str, seed: int = 1) -> Iterator[Relay]:
    link = Link.parse(text)
    with Relay(dict.fromkeys(link.directions(), link), seed) as running:
        yield running


@contextlib.contextmanager
def server(answer: Callable[[socket.socket], None]) -> Iterator[Address]:
    """Calls `answer` for each connection, in a thread of its own."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answer(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield Address(*listener.getsockname())
        listener.shutdown(socket.SHUT_RDWR)


def connect(address: Address) -> socket.socket:
    sock = socket.create_connection(address, PATIENCE)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def receive(sock: socket.socket, size: int) -> bytes:
    parts = []
    while size and (part := sock.recv(min(size, 2**18))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def drain(sock: socket.socket, size: int) -> int:
    """Receive and drop `size` bytes, or fewer up to the end of the data; how many they were."""
    left = size
    while left and (part := sock.recv(min(left, 2**18))):
        left -= len(part)
    return size - left


def echo(sock: socket.socket) -> None:
    while data := sock.recv(2**16):
        sock.sendall(data)


def asked(sock: socket.socket) -> float:
    """The seconds until `echo` has answered."""
    start = time.monotonic()
    sock.sendall(b"?")
    assert sock.recv(1) == b"?"
    return time.monotonic() - start


class Receiver:
    """A server that notes when each message of `size` bytes has arrived."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._arrived: list[float] = []
        self._news = threading.Condition()

    def __call__(self, sock: socket.socket) -> None:
        while len(receive(sock, self.size)) == self.size:
            with self._news:
                self._arrived.append(time.monotonic())
                self._news.notify_all()

    def moments(self, count: int) -> list[float]:
        """When the next `count` messages arrived, on all connections."""
        with self._news:
            assert self._news.wait_for(lambda: len(self._arrived) >= count, PATIENCE)
            moments, self._arrived = self._arrived[:count], self._arrived[count:]
        return moments


def opened(through: Relay, address: Address, receiver: Receiver) -> socket.socket:
    """A connection from `a` whose handshake is over."""
    sock = connect(through.reach("a", address))
    sock.sendall(bytes(receiver.size))
    receiver.moments(1)
    return sock
