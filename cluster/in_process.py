"""The cluster of the transport `none`: a registry and nodes in this process, which call each other directly."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from cluster.execution import Shard
from cluster.leases import Leases
from cluster.model_servers.client import ModelServerClients
from cluster.node_server import LOOPBACK, NodeServer, Shards, addresses, make_shards, serve_all
from cluster.partition import Partition
from cluster.registry import Registry
from transports.address import Address
from transports.base import Transport

if TYPE_CHECKING:
    from partitioning.program import Program


class InProcessCluster:
    """A registry and nodes for `partitions` in this process, over the transport `none`. A context manager."""

    def __init__(
        self,
        partitions: Sequence[Partition],
        program: Program,
        transport: Transport,
        model_servers: Sequence[Mapping[str, Address]] = (),
        others: Mapping[str, Sequence[Mapping[str, Address]]] = {},
    ) -> None:
        """`model_servers`: for each portion, the addresses of its model server by interface. `others`: name of a
        partition -> other addresses of the same model servers, which its nodes call instead.
        """
        self._partitions = partitions
        self._program = program
        self._model_clients = ModelServerClients(model_servers)
        self._other_clients = {name: ModelServerClients(addresses) for name, addresses in others.items()}
        self._transports = {transport.name: transport}
        self.registries: Mapping[str, Address] = {}

    def __enter__(self) -> InProcessCluster:
        with contextlib.ExitStack() as undo:
            for clients in (self._model_clients, *self._other_clients.values()):
                undo.callback(clients.close)
            servers = max(partition.servers for partition in self._partitions)
            registry = Registry(Leases(servers, ttl=math.inf))  # the nodes end with the registry
            self.registries = addresses(serve_all(registry.handle, self._transports, LOOPBACK, 1, undo))
            for _ in range(servers):
                undo.callback(NodeServer(self._transports, self.registries, self._load, workers=1).close)
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def _load(self, server: int) -> Shards:
        """The shards of `server`. They do not copy tensors for another node, since it is in this process."""
        from partitioning.engines import to_held_array

        shards: dict[tuple[str, str], Shard] = {}
        for partition in self._partitions:
            clients = self._other_clients.get(partition.name, self._model_clients)
            shards |= make_shards(partition, server, lambda: self._program, clients)
        return {key: shard if shard.remote else replace(shard, to_array=to_held_array) for key, shard in shards.items()}
