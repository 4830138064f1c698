"""Nodes in this process behind real sockets, with stages of the tests, and their clients."""

from __future__ import annotations

import contextlib
import socket
import time
import uuid
from collections.abc import Iterator, Mapping

import numpy as np

import transports
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.execution import Execute, Shard
from cluster.leases import Leases
from cluster.node_server import LOOPBACK, NodeServer, addresses, serve_all
from cluster.partition import Partition
from cluster.registry import Registry
from cluster.request import Request, RequestStats, Route
from cluster.result_receiver import ResultReceiver
from transports.address import Address
from transports.base import Array, Message


class Nodes(contextlib.ExitStack):
    """A registry of as many shards as `servers` says, over one transport."""

    def __init__(
        self,
        servers: int,
        stages: Mapping[str, Execute],
        *cuts: Partition,
        transport: str = "grpc",
        remote: bool = False,
    ) -> None:
        super().__init__()
        self.leases = Leases(servers)
        self.cuts = cuts
        self._stages = stages
        self._transport = transport
        self._remote = remote
        self._carriers = {transport: transports.make(transport)}
        self._registries = addresses(serve_all(Registry(self.leases).handle, self._carriers, LOOPBACK, 8, self))

    def start(self) -> NodeServer:
        """A node that holds the next portion of every partition."""
        host = NodeServer(self._carriers, self._registries, self._load)
        self.callback(host.close)
        return host

    def pretend(self, address: Address, server: int) -> None:
        """Register `address` for portion `server`, without a node there."""
        lease = self.leases.take({self._transport: address}, server)
        for cut in self.cuts:
            self.leases.report(lease.epoch, cut.name, cut.awaited(server))

    def dispatcher(self) -> Dispatcher:
        return self.enter_context(contextlib.closing(Dispatcher(self._carriers, self._registries)))

    def receiver(self) -> ResultReceiver:
        return self.enter_context(contextlib.closing(ResultReceiver(self._carriers)))

    def client(self) -> Client:
        return Client(self.dispatcher(), self.receiver())

    def route(self, cut: Partition, flow: str = "forward") -> Route:
        return Route(cut.name, "eager", self._transport, flow=flow)

    def request(self, cut: Partition, seconds: float, reply_to: str = "") -> Request:
        return Request(uuid.uuid4().hex, self.route(cut), time.monotonic() + seconds, reply_to)

    def _load(self, server: int) -> dict[tuple[str, str], Shard]:
        held = [cut for cut in self.cuts if server < cut.servers]
        return {(cut.name, "eager"): Shard(cut, server, self._stages, np.asarray, self._remote) for cut in held}


def send(dispatcher: Dispatcher, request: Request, cut: Partition, tensors: Mapping[str, Array]) -> list[Message]:
    """The answers of the servers that await `tensors`."""
    deliveries = dispatcher.deliveries(request, cut, tensors)
    return [dispatcher.send(request, delivery, carry=RequestStats())[0] for delivery, _ in deliveries]


@contextlib.contextmanager
def silent() -> Iterator[Address]:
    """An address that accepts connections and never answers, like that of a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())
