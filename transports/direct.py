"""`none`: a call within the process, on the caller's thread, without a copy.

It measures the cost of the partition alone: no wire, no codec, no worker and no deadline. It applies the same limits
and raises the same errors as every transport.
"""

from __future__ import annotations

import itertools
import threading

from transports.address import Address
from transports.base import Connection, Handler, Message, Server, Transport
from transports.errors import ConnectError, ConnectionLost
from transports.limits import Limits
from transports.serving import answer
from transports.sockets import Deadline


class Direct(Transport):
    """Serves handlers within one process. A port is a number that is unique in the process."""

    name = "none"
    title = "None"
    addressing = "in-process"
    crosses_network = False

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        """Ignores `workers`: every call runs on its caller's thread."""
        return _SERVED.add(DirectServer(handler, self.options), host, port)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        self.check_codec(codec)
        return DirectConnection(_SERVED.find(address), self.options)


class DirectServer(Server):
    def __init__(self, handler: Handler, limits: Limits) -> None:
        self.handler: Handler | None = handler  # None once the server is closed
        self.limits = limits

    def drain(self, seconds: float) -> None:
        """Do nothing: the caller has its answer when the handler returns."""

    def close(self) -> None:
        self.handler = None
        _SERVED.remove(self)


class DirectConnection(Connection):
    def __init__(self, server: DirectServer, limits: Limits) -> None:
        # Each message is checked once, against the smaller `max_message` of the two ends.
        super().__init__(server.address, min(limits, server.limits, key=lambda end: end.max_message))
        self.server = server

    def encode(self, message: Message) -> Message:
        return message

    def exchange(self, request: Message, deadline: Deadline) -> Message:
        if (handler := self.server.handler) is None:
            self.closed = True
            raise ConnectionLost(f"the connection to {self.address} is closed")
        return answer(handler, request)

    def decode(self, answer: Message) -> Message:
        return answer

    def close(self) -> None:
        self.closed = True


class _Served:
    """The servers of this process, by port."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.servers: dict[int, DirectServer] = {}
        self.ports = itertools.count(1)

    def add(self, server: DirectServer, host: str, port: int) -> DirectServer:
        with self.lock:
            chosen = port or next(number for number in self.ports if number not in self.servers)
            if chosen in self.servers:
                raise ConnectError(f"cannot bind {host}:{chosen}: the process already serves it")
            server.address = Address(host, chosen)
            self.servers[chosen] = server
        return server

    def find(self, address: Address) -> DirectServer:
        with self.lock:
            server = self.servers.get(address.port)
        if server is None:
            raise ConnectError(f"nothing is served at {address} in this process")
        return server

    def remove(self, server: DirectServer) -> None:
        with self.lock:
            if self.servers.get(server.address.port) is server:
                del self.servers[server.address.port]


_SERVED = _Served()
