"""Nodes in this process behind real sockets, whose stages a test gives, and those who talk to them."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Iterator, Mapping

import numpy as np

import transports
from cluster.client import Client
from cluster.courier import Courier
from cluster.host import LOOPBACK, Host, addresses, serve_all
from cluster.leases import Leases
from cluster.mailbox import Mailbox
from cluster.node import Execute, Portion
from cluster.partition import Partition
from cluster.registry import Registry
from cluster.route import Request, Route, Tally
from transports.base import Address, Array, Message

__all__ = ["Nodes", "send", "silent"]


class Nodes(contextlib.ExitStack):
    """A registry of as many portions as `servers` says, over one transport."""

    def __init__(self, servers: int, stages: Mapping[str, Execute], *cuts: Partition, transport: str = "grpc") -> None:
        super().__init__()
        self.leases = Leases(servers)
        self.cuts = cuts
        self._stages = stages
        self._transport = transport
        self._carriers = {transport: transports.make(transport)}
        self._registries = addresses(serve_all(Registry(self.leases).handle, self._carriers, LOOPBACK, 8, self))

    def start(self) -> Host:
        """A node that holds the next portion of every partition."""
        host = Host(self._carriers, self._registries, self._load)
        self.callback(host.close)
        return host

    def pretend(self, address: Address, server: int) -> None:
        """Have the registry say that portion `server` is served at `address`."""
        lease = self.leases.take({self._transport: address}, server)
        for cut in self.cuts:
            self.leases.report(lease.epoch, cut.name, cut.awaited(server))

    def courier(self) -> Courier:
        return self.enter_context(contextlib.closing(Courier(self._carriers, self._registries)))

    def mailbox(self) -> Mailbox:
        return self.enter_context(contextlib.closing(Mailbox(self._carriers)))

    def client(self) -> Client:
        return Client(self.courier(), self.mailbox())

    def route(self, cut: Partition, flow: str = "forward") -> Route:
        return Route(cut.name, "eager", self._transport, flow=flow)

    def request(self, cut: Partition, seconds: float, reply_to: str = "") -> Request:
        return Request(uuid.uuid4().hex, self.route(cut), time.monotonic() + seconds, reply_to)

    def _load(self, server: int) -> dict[tuple[str, str], Portion]:
        held = [cut for cut in self.cuts if server < cut.servers]
        return {(cut.name, "eager"): Portion(cut, server, self._stages, np.asarray) for cut in held}


def send(courier: Courier, request: Request, cut: Partition, tensors: Mapping[str, Array]) -> list[Message]:
    """What the servers that await `tensors` answer to them."""
    parcels = courier.parcels(request, cut, tensors)
    return [courier.send(request, parcel, carry=Tally())[0] for parcel, _ in parcels]


@contextlib.contextmanager
def silent() -> Iterator[Address]:
    """Where connections are made and nothing is ever answered, as with a process that is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())
