"""The echoes of plain TCP and Unix sockets, as a straightforward program writes them. See `bare`."""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

LENGTH = struct.Struct("<Q")
NAME = "\0splitbench-bare-{}"
"""The abstract name of a Unix socket, by a number."""


def receive(sock: socket.socket, buffer: bytearray) -> bytearray:
    """Fill `buffer` from `sock`, and return it. Raises `EOFError`."""
    view, got = memoryview(buffer), 0
    while got < len(view):
        count = sock.recv_into(view[got:])
        if not count:
            raise EOFError
        got += count
    return buffer


def send(sock: socket.socket, array: NDArray[np.generic]) -> None:
    """Send the length and the bytes of `array` in one piece: a length that leaves first makes TCP twice as slow."""
    data = array.reshape(-1).view(np.uint8).data
    sent = sock.sendmsg([LENGTH.pack(array.nbytes), data])
    sock.sendall(data[sent - LENGTH.size :])


@contextlib.contextmanager
def accepting(listener: socket.socket, converse: Callable[[socket.socket], None]) -> Iterator[None]:
    """Calls `converse` with each accepted connection, in a thread of its own, until the context ends."""

    def accept() -> None:
        with contextlib.suppress(OSError):  # closed
            while True:
                sock, _ = listener.accept()
                no_delay(sock)
                threading.Thread(target=converse, args=(sock,), daemon=True).start()

    with listener:
        threading.Thread(target=accept, daemon=True).start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def no_delay(sock: socket.socket) -> None:
    """Set TCP_NODELAY, if `sock` has it."""
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _converse(sock: socket.socket) -> None:
    with sock, contextlib.suppress(EOFError, OSError):
        while True:
            head = receive(sock, bytearray(LENGTH.size))
            array = np.frombuffer(receive(sock, bytearray(LENGTH.unpack(head)[0])), np.uint8)
            send(sock, array)


@contextlib.contextmanager
def serve_tcp(host: str) -> Iterator[int]:
    with socket.create_server((host, 0)) as listener, accepting(listener, _converse):
        yield int(listener.getsockname()[1])


@contextlib.contextmanager
def serve_unix() -> Iterator[int]:
    """Yields the number in the socket's name."""
    with socket.socket(socket.AF_UNIX) as listener:
        port = _bind(listener)
        listener.listen()
        with accepting(listener, _converse):
            yield port


def _bind(listener: socket.socket) -> int:
    """Bind `listener` to a free name, and return the number in the name."""
    while True:
        port = random.randrange(1, 2**16)
        try:
            listener.bind(NAME.format(port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
        else:
            return port


@contextlib.contextmanager
def connect_tcp(host: str, port: int) -> Iterator[Callable[[NDArray[np.generic]], bytearray]]:
    with socket.create_connection((host, port)) as sock:
        no_delay(sock)
        yield _call(sock)


@contextlib.contextmanager
def connect_unix(port: int) -> Iterator[Callable[[NDArray[np.generic]], bytearray]]:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(NAME.format(port))
        yield _call(sock)


def _call(sock: socket.socket) -> Callable[[NDArray[np.generic]], bytearray]:
    def call(array: NDArray[np.generic]) -> bytearray:
        send(sock, array)
        return receive(sock, bytearray(LENGTH.unpack(receive(sock, bytearray(LENGTH.size)))[0]))

    return call
