"""The node's side of stages that model servers execute.

A node gathers the inputs of a stage as with any engine, calls its model server, and sends the outputs on. It executes
no stage and loads no weights.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import tfserving
from cluster.model_servers.selection import INTERFACES
from cluster.partition import Partition
from partitioning.plan import Stage
from partitioning.served import Served
from tfserving import Predictor
from tfserving.shapes import completed
from transports.address import Address
from transports.errors import UsageError


class ServedStage:
    """A stage that a model server executes: a `cluster.execution.Execute`."""

    def __init__(self, client: Predictor, served: Served, stage: Stage) -> None:
        self._client = client
        self._model = served.models[stage.name]
        self._inputs = [served.keys[name] for name in stage.inputs]
        edges = [served.plan.edges[name] for name in stage.outputs]
        self._outputs = {served.keys[edge.name]: edge.dtype for edge in edges}
        self._shapes = {served.keys[edge.name]: edge.shape for edge in edges}

    def __call__(self, inputs: Sequence[Any], remaining: float = 30.0) -> list[Any]:
        """The arrays of `stage.outputs` from those of `stage.inputs`, in order: read-only, within `remaining` seconds.

        Raises a `WireError`.
        """
        named = dict(zip(self._inputs, map(np.asarray, inputs), strict=True))
        answer = self._client.predict(self._model, named, self._outputs, remaining)
        return [answer[key] if answer[key].size else completed(answer[key], self._shapes[key]) for key in self._outputs]


class ModelServerClients:
    """Kept connections to model servers. `servers`: for each portion, its model server's addresses by interface."""

    def __init__(self, servers: Sequence[Mapping[str, Address]] = ()) -> None:
        self._servers = servers
        self._clients: dict[tuple[str, int], Predictor] = {}
        self._lock = threading.Lock()

    def stages(self, partition: Partition, engine: str, server: int) -> dict[str, ServedStage]:
        """The stages of one server, by name. Raises `UsageError` if the engine has no model server for them."""
        served = Served.of(partition.plan, partition.name)
        client = self._client(engine, server)
        return {stage.name: ServedStage(client, served, stage) for stage in partition.portion(server)}

    def close(self) -> None:
        """Close every connection. Idempotent."""
        with self._lock:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _client(self, engine: str, server: int) -> Predictor:
        interface = INTERFACES[engine]
        if server >= len(self._servers) or interface not in self._servers[server]:
            raise UsageError(f"engine {engine!r}: no model server over {interface} is named for server {server}")
        with self._lock:
            if (engine, server) not in self._clients:
                self._clients[engine, server] = tfserving.connect(interface, self._servers[server][interface])
            return self._clients[engine, server]
