"""A node with its transports and its lease, in a separate process or, for the transport `none`, in this one."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster.dispatcher import Dispatcher
from cluster.execution import Execute, Shard
from cluster.lease_client import LeaseClient, Stop
from cluster.manifest import verify
from cluster.model_servers.client import ModelServerClients
from cluster.node import Node
from cluster.partition import Partition, read_partitions
from partitioning.engine_table import EMPTY, is_remote
from partitioning.errors import PartitionError, one_line
from partitioning.plan import Edge, Stage
from transports.address import LAST_PORT, Address
from transports.base import DTYPES, Array, Handler, Server, Transport
from transports.errors import SplitbenchError, UsageError, WireError
from transports.process import freeze_garbage
from transports.sockets import Deadline

if TYPE_CHECKING:
    from partitioning.program import Program

Shards = Mapping[tuple[str, str], Shard]
FLUSH = 0.25
"""Least seconds that a transport gets to send the last answers when a server ends."""
LOOPBACK = Address("127.0.0.1", 0)
"""Any free port of the loopback interface, which only this machine can reach."""


def serve_all(
    handler: Handler, transports: Mapping[str, Transport], at: Address, workers: int, stack: contextlib.ExitStack
) -> dict[str, Server]:
    """Serve `handler` on every transport until `stack` closes, on the port of `at` and the next ports (0: free ports).

    Raises `UsageError` if there are too few ports, and `ConnectError` if a port cannot be bound.
    """
    if at.port and not 0 < at.port <= LAST_PORT - len(transports) + 1:
        raise UsageError(f"port {at.port}: {len(transports)} transports take that many ports; the last is {LAST_PORT}")
    return {
        name: stack.enter_context(transport.serve(handler, at.host, at.port and at.port + place, workers))
        for place, (name, transport) in enumerate(transports.items())
    }


def addresses(servers: Mapping[str, Server]) -> dict[str, Address]:
    """The address of each of `servers`."""
    return {name: server.address for name, server in servers.items()}


class NodeServer:
    """Serves a node, takes a portion from the registry, loads it, reports the awaited tensors, and keeps the lease."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        registries: Mapping[str, Address],
        load: Callable[[int], Shards],
        *,
        at: Address = LOOPBACK,
        advertise: str = "",
        workers: int = 8,
        claim: int | None = None,
        patience: float = 0.0,
        stop: Stop | None = None,
        host: str = "",
    ) -> None:
        """`load`: index of a portion -> its shards. `at`: the address to bind. `advertise`: the host name under which
        other processes reach the server (empty: the host of `at`). `claim` and `patience`: see `LeaseClient`. `stop`:
        ends the wait for a portion; set when the server loses its portion. `host`: see `Dispatcher`.

        Raises `NoPortion` if the portion, or every portion, is taken.
        """
        self._stack = contextlib.ExitStack()
        self._stop: Stop = stop or threading.Event()
        self._lost: WireError | None = None
        self._lease_client: LeaseClient | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            shards: dict[tuple[str, str], Shard] = {}
            dispatcher = Dispatcher(transports, registries, host)
            self._stack.callback(dispatcher.close)
            # Before the first lease there is no epoch. 0 is never a valid epoch.
            self._node = Node(shards, dispatcher, lambda: self._lease_client.epoch if self._lease_client else 0)
            self._stack.callback(self._node.close)
            self._servers = serve_all(self._node.handle, transports, at, workers, self._stack)
            self.addresses = addresses(self._servers)
            name = next(iter(transports))
            self._lease_client = LeaseClient(
                transports[name],
                registries[name],
                {name: Address(advertise or own.host, own.port) for name, own in self.addresses.items()},
                claim=claim,
                patience=patience,
                stop=self._stop,
                lost=self._lose,
            )
            self._stack.callback(self._lease_client.close)
            shards.update(load(self._lease_client.server))
            held = {portion.partition.name: portion.partition for portion in shards.values()}
            self._lease_client.report({name: partition.awaited(self.server) for name, partition in held.items()})
            undo.pop_all()

    @property
    def server(self) -> int:
        """The index of the portion."""
        assert self._lease_client is not None
        return self._lease_client.server

    def finish(self, seconds: float) -> None:
        """Finish the requests in flight, within about `seconds`, and give the portion back.

        Raises the error with which the registry refused the lease, if the server has lost its portion.
        """
        assert self._lease_client is not None
        deadline = Deadline.after(seconds)
        self._node.drain(seconds)
        if self._lost is None:
            self._lease_client.leave()
        for server in self._servers.values():  # transports may still be sending the last answers
            server.drain(max(FLUSH, deadline.left()))
        if self._lost:
            raise self._lost

    def close(self) -> None:
        """Stop serving, and close every connection."""
        self._stack.close()

    def _lose(self, error: WireError) -> None:
        self._lost = error
        self._stop.set()


def make_shards(
    partition: Partition, server: int, program: Callable[[], Program], model_clients: ModelServerClients
) -> Shards:
    """The shard of `server` for each engine of `partition` and for `EMPTY`; none if the partition has no such server.

    `program` is called only if an engine executes stages in this process; other engines use `model_clients`.
    """
    if server >= partition.servers:
        return {}
    program = cache(program)
    empty = {stage.name: _empty(partition, stage) for stage in partition.portion(server)}
    made: dict[tuple[str, str], Shard] = {(partition.name, EMPTY): Shard(partition, server, empty, np.asarray)}
    for engine in partition.engines:
        if is_remote(engine):
            stages = model_clients.stages(partition, engine, server)
            made[partition.name, engine] = Shard(partition, server, stages, np.asarray, remote=True)
        else:
            made[partition.name, engine] = _local_shard(partition, engine, server, program())
    return made


def _local_shard(partition: Partition, engine: str, server: int, program: Program) -> Shard:
    from partitioning import engines

    def built(stage: Stage) -> Execute:
        execute = engines.build(engine, program, stage)
        return lambda inputs, seconds: execute(inputs)  # ignores the time limit, which is for model servers

    stages = {stage.name: built(stage) for stage in partition.portion(server)}
    return Shard(partition, server, stages, engines.to_array)


def _empty(partition: Partition, stage: Stage) -> Execute:
    """A function that returns zeros for the outputs of `stage`, the same arrays again for the same batch.

    The batch is the first extent of the stage's first input; other open extents are 1.
    """
    edges = [partition.plan.edges[name] for name in stage.outputs]

    def array(edge: Edge, batch: int) -> Array:
        opened = [batch, *[1] * len(edge.shape)]
        shape = [opened[place] if extent is None else extent for place, extent in enumerate(edge.shape)]
        zeros = np.zeros(shape, DTYPES.get(edge.dtype, np.dtype(object)))
        zeros.flags.writeable = False  # all requests share it
        return zeros

    @lru_cache(maxsize=1)
    def arrays(batch: int) -> list[Any]:
        return [array(edge, batch) for edge in edges]

    return lambda inputs, seconds: arrays(len(inputs[0]) if inputs and np.ndim(inputs[0]) else 1)


def load_shards(folder: Path, files: Mapping[str, str], server: int, model_clients: ModelServerClients) -> Shards:
    """The shards of `server` from `files` (path -> SHA-256) in `folder` (`cluster.partition`).

    A node loads all partitions before any request. Raises `Tampered`, before it reads a file, if the file has changed,
    is missing, or has no entry in `files`; and `PartitionError`, which names the partition, if one cannot be loaded.
    """
    from partitioning import archive

    def program(name: str) -> Program:
        verify(folder, files, f"{name}/server-{server}")
        return archive.load(folder / name / f"server-{server}")

    shards: dict[tuple[str, str], Shard] = {}
    names = [name for name in files if name.endswith("/partition.json")]
    for name in names:
        verify(folder, files, name)
    for partition in read_partitions(folder / name for name in names):
        try:
            shards |= make_shards(partition, server, partial(program, partition.name), model_clients)
        except SplitbenchError:
            raise
        except Exception as error:  # libraries may raise any exception
            reason = str(error) if isinstance(error, PartitionError) else one_line(error)
            raise PartitionError(f"partition {partition.name!r} on server {server}: {reason}") from error
    freeze_garbage()
    return shards


def slowed(shards: Shards, factor: float) -> Shards:
    """`shards` whose stages take `factor` times as long, by waiting, to emulate a slower processor."""
    if factor == 1.0:
        return shards

    def slow(execute: Execute) -> Execute:
        def run(inputs: Sequence[Any], seconds: float) -> list[Any]:
            began = time.perf_counter()
            outputs = execute(inputs, seconds)
            time.sleep((factor - 1.0) * (time.perf_counter() - began))
            return outputs

        return run

    def slow_all(shard: Shard) -> Shard:
        return replace(shard, execute={stage: slow(execute) for stage, execute in shard.execute.items()})

    return {key: slow_all(shard) for key, shard in shards.items()}
