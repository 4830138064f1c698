"""A node with its servers and its place in the registry: what a process holds, and what `none` holds in this one."""

from __future__ import annotations

import contextlib
import gc
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.courier import Courier
from cluster.manifest import sealed, verify
from cluster.node import Execute, Node, Portion
from cluster.partition import Partition, read_partitions
from cluster.serving import choice
from cluster.serving.stages import Callers
from cluster.tenancy import Tenancy
from partitioning.plan import Stage
from transports.address import LAST_PORT
from transports.base import Address, Handler, Server, Transport
from transports.errors import UsageError, WireError
from transports.sockets import Deadline

if TYPE_CHECKING:
    from partitioning.program import Program

__all__ = ["LOOPBACK", "Host", "Portions", "addresses", "load_portions", "make_portions", "serve_all"]

Portions = Mapping[tuple[str, str], Portion]
FLUSH = 0.25
"""Seconds that a transport has at the least for answers that are on their way out when a server ends."""
LOOPBACK = Address("127.0.0.1", 0)
"""Any free port of this machine, for this machine alone."""


def serve_all(
    handler: Handler, transports: Mapping[str, Transport], at: Address, workers: int, stack: contextlib.ExitStack
) -> dict[str, Server]:
    """Serve `handler` on every transport until `stack` closes: from the port of `at` upwards, or (0) on free ones.

    Raises `UsageError` where that goes beyond the last port, and `ConnectError`.
    """
    if at.port and not 0 < at.port <= LAST_PORT - len(transports) + 1:
        raise UsageError(f"port {at.port}: {len(transports)} transports take that many ports, up to {LAST_PORT}")
    return {
        name: stack.enter_context(transport.serve(handler, at.host, at.port and at.port + place, workers))
        for place, (name, transport) in enumerate(transports.items())
    }


def addresses(servers: Mapping[str, Server]) -> dict[str, Address]:
    """Where each of `servers` listens."""
    return {name: server.address for name, server in servers.items()}


class Host:
    """Serve, register, load the portion that the registry gives, report what it awaits, and keep the lease."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        registries: Mapping[str, Address],
        load: Callable[[int], Portions],
        *,
        at: Address = LOOPBACK,
        workers: int = 8,
        claim: int | None = None,
        patience: float = 0.0,
        stop: threading.Event | None = None,
    ) -> None:
        """`load`: the server's index -> its portions. `claim` and `patience`: see `Tenancy`. `stop` is set by who wants
        the server to end, and where its portion is lost.

        Raises `NoPortion` when every portion is taken.
        """
        self._stack = contextlib.ExitStack()
        self._stop = stop or threading.Event()
        self._lost: WireError | None = None
        self._tenancy: Tenancy | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            portions: dict[tuple[str, str], Portion] = {}
            courier = Courier(transports, registries)
            self._stack.callback(courier.close)
            self._node = Node(portions, courier, lambda: self._tenancy.epoch if self._tenancy else 0)
            self._stack.callback(self._node.close)
            self._servers = serve_all(self._node.handle, transports, at, workers, self._stack)
            self.addresses = addresses(self._servers)
            name = next(iter(transports))
            self._tenancy = Tenancy(
                transports[name],
                registries[name],
                self.addresses,
                claim=claim,
                patience=patience,
                stop=self._stop,
                lost=self._lose,
            )
            self._stack.callback(self._tenancy.close)
            portions.update(load(self._tenancy.server))
            held = {portion.partition.name: portion.partition for portion in portions.values()}
            self._tenancy.report({name: partition.awaited(self.server) for name, partition in held.items()})
            undo.pop_all()

    @property
    def server(self) -> int:
        """The index of the portion that this server holds."""
        assert self._tenancy is not None
        return self._tenancy.server

    def finish(self, seconds: float) -> None:
        """Let the requests that are here leave, for `seconds` or little more, and give the portion back.

        Raises the `WireError` for which the portion was lost, if it was.
        """
        assert self._tenancy is not None
        deadline = Deadline.after(seconds)
        self._node.drain(seconds)
        if self._lost is None:
            self._tenancy.leave()
        for server in self._servers.values():  # the last answers are still on their way out
            server.drain(max(FLUSH, deadline.left()))
        if self._lost:
            raise self._lost

    def close(self) -> None:
        """Stop serving, and let go of every connection."""
        self._stack.close()

    def _lose(self, error: WireError) -> None:
        self._lost = error
        self._stop.set()


def make_portions(partition: Partition, server: int, program: Callable[[], Program], callers: Callers) -> Portions:
    """The stages of `server` under each engine of `partition`; none where the partition has fewer servers.

    `program` is asked for where stages are executed here, `callers` where model servers do that.
    """
    names = partition.engines if server < partition.servers else ()
    made: dict[tuple[str, str], Portion] = {}
    if here := [engine for engine in names if engine not in choice.ENGINES]:
        loaded = program()
        made |= {(partition.name, engine): _portion_here(partition, engine, server, loaded) for engine in here}
    for engine in names:
        if engine in choice.ENGINES:
            stages = callers.stages(partition, engine, server)
            made[partition.name, engine] = Portion(partition, server, stages, np.asarray)
    return made


def _portion_here(partition: Partition, engine: str, server: int, program: Program) -> Portion:
    from partitioning import engines

    def executed(stage: Stage) -> Execute:
        execute = engines.build(engine, program, stage)
        return lambda inputs, remaining: execute(inputs)  # what computes here waits for nobody

    return Portion(
        partition, server, {stage.name: executed(stage) for stage in partition.portion(server)}, engines.to_array
    )


def load_portions(exports: Path, digest: str, server: int, callers: Callers) -> Portions:
    """The portions of `server`, from the files that the launcher wrote (`cluster.partition`) and sealed under `digest`.

    Raises `Tampered` for a file that is not the one that was sealed, before anything is made of it.
    """
    from partitioning import archive

    def program(name: str) -> Program:
        verify(exports, digest, f"{name}/server-{server}")
        return archive.load(exports / name / f"server-{server}")

    portions: dict[tuple[str, str], Portion] = {}
    names = [name for name in sealed(exports, digest) if name.endswith("/partition.json")]
    verify(exports, digest, *names)
    for partition in read_partitions(exports / name for name in names):
        portions |= make_portions(partition, server, partial(program, partition.name), callers)
    settle()
    return portions


def settle() -> None:
    """Take what is loaded out of the garbage collector's sight: a collection would walk it amid a timed request."""
    gc.collect()
    gc.freeze()
