"""Nodes in this process that serve over real sockets and execute stages of the tests, and their clients."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

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

WAIT = 20.0
"""Seconds within which an event has to happen."""


class Clock:
    """A clock that tests move."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Gate:
    """A stage that adds one. Each call counts itself in `begun` and waits until `open` is set."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Semaphore(0), threading.Event()

    def __call__(self, inputs: Sequence[Any], seconds: float) -> list[Any]:
        self.begun.release()
        assert self.open.wait(WAIT)
        return [inputs[0] + 1]

    def await_begun(self, count: int = 1) -> None:
        """Wait until `count` more calls have begun."""
        for _ in range(count):
            assert self.begun.acquire(timeout=WAIT)


class Nodes(contextlib.ExitStack):
    """A registry for `servers` portions, and nodes, over one transport. `close` closes the registry and all nodes.

    The `host` of a node or a dispatcher is its name in emulated links, which tests publish at the registry.
    """

    def __init__(
        self,
        servers: int,
        stages: Mapping[str, Execute],
        *partitions: Partition,
        transport: str = "grpc",
        remote: bool = False,
    ) -> None:
        super().__init__()
        self.leases = Leases(servers)
        self.partitions = partitions
        self._stages = stages
        self._transport = transport
        self._remote = remote
        self._transports = {transport: transports.make(transport)}
        self.registry = Registry(self.leases)
        self.registries = addresses(serve_all(self.registry.handle, self._transports, LOOPBACK, 8, self))

    def start(self, host: str = "") -> NodeServer:
        """Start a node, which holds the next portion of every partition."""
        node = NodeServer(self._transports, self.registries, self._load, host=host)
        self.callback(node.close)
        return node

    def pretend(self, address: Address, server: int) -> None:
        """Register `address` for portion `server`, without a node there."""
        lease = self.leases.take({self._transport: address}, server)
        for partition in self.partitions:
            self.leases.report(lease.epoch, partition.name, partition.awaited(server))

    def dispatcher(self, host: str = "") -> Dispatcher:
        return self.enter_context(contextlib.closing(Dispatcher(self._transports, self.registries, host)))

    def receiver(self) -> ResultReceiver:
        return self.enter_context(contextlib.closing(ResultReceiver(self._transports)))

    def client(self) -> Client:
        return Client(self.dispatcher(), self.receiver())

    def route(self, partition: Partition, flow: str = "forward") -> Route:
        return Route(partition.name, "eager", self._transport, flow=flow)

    def request(self, partition: Partition, seconds: float, reply_to: str = "") -> Request:
        return Request(uuid.uuid4().hex, self.route(partition), time.monotonic() + seconds, reply_to)

    def _load(self, server: int) -> dict[tuple[str, str], Shard]:
        return {
            (partition.name, "eager"): Shard(partition, server, self._stages, np.asarray, self._remote)
            for partition in self.partitions
            if server < partition.servers
        }


def send(dispatcher: Dispatcher, request: Request, partition: Partition, tensors: Mapping[str, Array]) -> list[Message]:
    """The answers of the servers that await `tensors`."""
    deliveries = dispatcher.directory.deliveries(request, partition, tensors)
    return [dispatcher.send(request, delivery, carry=RequestStats())[0] for delivery, _ in deliveries]


@contextlib.contextmanager
def silent() -> Iterator[Address]:
    """The address of a peer that accepts connections and never answers, like a stopped process."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield Address(*listener.getsockname())
