"""`tcp` and `unix`: plain sockets, as a careful user writes them by hand; the lower bound for every other transport.

A Unix socket has no port. The port of its `Address` stands for a name in Linux's abstract namespace, which leaves no
file and ends with the process; the host does not matter. Only processes of the same user (or root) may connect.
"""

from __future__ import annotations

import os
import random
import socket
import struct
import sys
from functools import partial
from typing import ClassVar

from transports import tls
from transports.address import LAST_PORT, Address
from transports.base import Connection, Handler, Server, Transport
from transports.errors import ConnectError, UsageError
from transports.limits import Limits
from transports.serving import guard
from transports.sockets import Deadline, DeadlineSocket, Expired, UnixSocket


class Tcp(Transport):
    name = "tcp"
    title = "TCP"
    secure = "tls"

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        from transports.frames import converse
        from transports.listener import Listener

        talk = partial(converse, guard(handler, self.options, workers), self.options)
        return Listener(talk, Address(host, port), self.options.stall, self._tls, self.bind)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        from transports.frames import FrameConnection

        self.check_codec(codec)
        deadline = Deadline.after(timeout)
        return FrameConnection(self.dial(address, deadline), address, self.options, deadline)

    def bind(self, address: Address) -> tuple[socket.socket, Address]:
        """A socket that listens at `address`, and its actual address. Raises `ConnectError`."""
        from transports.listener import bind_port

        return bind_port(address)

    def dial(self, address: Address, deadline: Deadline) -> DeadlineSocket:
        """A socket connected to `address`. Raises `ConnectError`."""
        from transports.socket_connection import dial

        return dial(address, self._tls, deadline)


class Unix(Tcp):
    name = "unix"
    title = "Unix sockets"
    secure = ""
    addressing = "path"
    crosses_network = False
    Socket: ClassVar[type[UnixSocket]] = UnixSocket
    """The class of both ends' sockets."""

    def __init__(self, options: Limits | None = None) -> None:
        """Raises `UsageError` on a system other than Linux, and for TLS files."""
        super().__init__(options)
        if sys.platform != "linux":
            raise UsageError(f"transport {self.name!r} needs Linux's abstract sockets; take 'tcp'")

    def bind(self, address: Address) -> tuple[socket.socket, Address]:
        """Bind the abstract name for the port of `address` (0: a free port). Raises `ConnectError`."""
        sock = SameUserSocket(self.Socket)
        for port in [address.port] if address.port else random.sample(range(1, LAST_PORT + 1), 100):
            try:
                sock.bind(unix_name(port))
            except OSError as error:
                reason = error
                continue
            sock.listen(128)
            return sock, Address(address.host, port)
        sock.close()
        raise ConnectError(f"cannot bind {address}: {reason}")

    def dial(self, address: Address, deadline: Deadline) -> DeadlineSocket:
        sock = self.Socket(socket.AF_UNIX)
        sock.deadline = deadline.moment
        try:
            sock.connect(unix_name(address.port))
        except (OSError, Expired) as error:
            sock.close()
            raise ConnectError(f"no connection to {address}: {error or 'its queue is full'}") from None
        return sock


class SameUserSocket(socket.socket):
    """A listening Unix socket that refuses the processes of other users, and accepts sockets of the class `kind`."""

    def __init__(self, kind: type[UnixSocket]) -> None:
        super().__init__(socket.AF_UNIX)
        self._kind = kind

    def accept(self) -> tuple[socket.socket, object]:
        sock, name = super().accept()
        _, user, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
        if user not in (os.getuid(), 0):
            sock.close()
            raise OSError(f"a process of user {user} tried to connect")
        return self._kind(fileno=sock.detach()), name


CREDENTIALS = struct.Struct("3i")
"""The kernel's `struct ucred`: process, user and group."""


def unix_name(port: int) -> str:
    """The abstract name for `port`, distinct for each user."""
    return f"\0splitbench-{os.getuid()}-{port}"
