"""A node with its servers and its place in the registry: what a process holds, and what `none` holds in this one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.courier import Courier
from cluster.manifest import verify
from cluster.node import Node, Portion
from cluster.partition import Partition, partition_files, read_partitions
from cluster.tenancy import Tenancy
from transports.base import Address, Handler, Transport
from transports.errors import WireError

if TYPE_CHECKING:
    from partitioning.program import Program

__all__ = ["LOOPBACK", "Host", "Portions", "load_portions", "make_portion", "serve_all"]

Portions = Mapping[tuple[str, str], Portion]
LOOPBACK = Address("127.0.0.1", 0)
"""Any free port of this machine, for this machine alone."""


def serve_all(
    handler: Handler, transports: Mapping[str, Transport], at: Address, workers: int, stack: contextlib.ExitStack
) -> dict[str, Address]:
    """Serve `handler` on every transport until `stack` closes: from the port of `at` upwards, or (0) on free ones."""
    return {
        name: stack.enter_context(transport.serve(handler, at.host, at.port and at.port + place, workers)).address
        for place, (name, transport) in enumerate(transports.items())
    }


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
        on_lost: Callable[[], None] = lambda: None,
    ) -> None:
        """`load`: the server's index -> its portions. `claim`, `patience` and `on_lost`: see `Tenancy`.

        Raises `NoPortion` when every portion is taken.
        """
        self._stack = contextlib.ExitStack()
        self._on_lost = on_lost
        self._lost: WireError | None = None
        self._tenancy: Tenancy | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            portions: dict[tuple[str, str], Portion] = {}
            courier = Courier(transports, registries)
            self._stack.callback(courier.close)
            self._node = Node(portions, courier, lambda: self._tenancy.epoch if self._tenancy else 0)
            self._stack.callback(self._node.close)
            self.addresses = serve_all(self._node.handle, transports, at, workers, self._stack)
            name = next(iter(transports))
            self._tenancy = Tenancy(
                transports[name],
                registries[name],
                self.addresses,
                claim=claim,
                patience=patience,
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
        """Give the portion back, and let the requests that are here leave, for `seconds` at the most.

        Raises the `WireError` for which the portion was lost, if it was.
        """
        if self._lost:
            raise self._lost
        assert self._tenancy is not None
        self._tenancy.leave()
        self._node.drain(seconds)

    def close(self) -> None:
        """Stop serving, and let go of every connection."""
        self._stack.close()

    def _lose(self, error: WireError) -> None:
        self._lost = error
        self._on_lost()


def make_portion(partition: Partition, engine: str, server: int, program: Program) -> Portion:
    """The stages of `server`, each made executable under `engine`."""
    from partitioning import engines

    stages = partition.portion(server)
    execute = {stage.name: engines.build(engine, program, stage) for stage in stages}
    return Portion(partition, server, execute, engines.to_array)


def load_portions(exports: Path, digest: str, server: int) -> Portions:
    """The portions of `server`, from the files that the launcher wrote (`cluster.partition`) and sealed under `digest`.

    Raises `Tampered` for a file that is not the one that was sealed, before anything is made of it.
    """
    from partitioning import archive

    portions = {}
    verify(exports, digest, *(path.relative_to(exports).as_posix() for path in partition_files(exports)))
    for partition in read_partitions(exports):
        if server < partition.servers:
            verify(exports, digest, f"{partition.name}/server-{server}")
            program = archive.load(exports / partition.name / f"server-{server}")
            for engine in partition.engines:
                portions[partition.name, engine] = make_portion(partition, engine, server, program)
    settle()
    return portions


def settle() -> None:
    """Take what is loaded out of the garbage collector's sight: a collection would walk it amid a timed request."""
    gc.collect()
    gc.freeze()
