"""A node with its servers and its place in the registry: what a process holds, and what `none` holds in this one."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cluster.courier import Courier
from cluster.node import Execute, Node, Portion
from cluster.partition import Partition, read_partitions
from cluster.registry import PREFIX
from cluster.serving import choice
from cluster.serving.stages import Callers
from partitioning.plan import Stage
from transports.base import Address, Connection, Handler, Message, Transport

if TYPE_CHECKING:
    from partitioning.program import Program

__all__ = ["LOOPBACK", "Host", "Portions", "load_portions", "make_portions", "serve_all"]

Portions = Mapping[tuple[str, str], Portion]
LOOPBACK = Address("127.0.0.1", 0)
"""Any free port of this machine, for this machine alone."""
TIMEOUT = 30.0
"""Seconds for one question to the registry while starting."""


def serve_all(
    handler: Handler, transports: Mapping[str, Transport], at: Address, workers: int, stack: contextlib.ExitStack
) -> dict[str, Address]:
    """Serve `handler` on every transport until `stack` closes: from the port of `at` upwards, or (0) on free ones."""
    return {
        name: stack.enter_context(transport.serve(handler, at.host, at.port and at.port + place, workers)).address
        for place, (name, transport) in enumerate(transports.items())
    }


class Host:
    """Serve, register, load the portion that the registry gives, and report what it awaits."""

    def __init__(
        self,
        transports: Mapping[str, Transport],
        registries: Mapping[str, Address],
        load: Callable[[int], Portions],
        *,
        at: Address = LOOPBACK,
        workers: int = 8,
    ) -> None:
        """`load`: the server's index -> its portions. Raises `NoPortion` when every portion is taken."""
        self._stack = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            portions: dict[tuple[str, str], Portion] = {}
            courier = Courier(transports, registries)
            self._stack.callback(courier.close)
            node = Node(portions, courier)
            self._stack.callback(node.close)
            self.addresses = serve_all(node.handle, transports, at, workers, self._stack)
            name = next(iter(transports))
            with transports[name].connect(registries[name]) as registry:
                self.server = _register(registry, self.addresses)
                portions.update(load(self.server))
                _report(registry, self.server, (portion.partition for portion in portions.values()))
            undo.pop_all()

    def close(self) -> None:
        """Stop serving, and let go of every connection."""
        self._stack.close()


def make_portions(
    partition: Partition, server: int, program: Callable[[], Program], callers: Callers
) -> Portions:
    """The stages of `server` under each engine of `partition`; none where the partition has fewer servers.

    `program` is asked for where stages are executed here, `callers` where model servers do that.
    """
    names = partition.engines if server < partition.servers else ()
    made = {}
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


def load_portions(exports: Path, server: int, callers: Callers) -> Portions:
    """The portions of `server`, from the files that the launcher wrote (`cluster.partition`)."""
    from partitioning import archive

    portions: dict[tuple[str, str], Portion] = {}
    for partition in read_partitions(exports):
        folder = exports / partition.name / f"server-{server}"
        portions |= make_portions(partition, server, partial(archive.load, folder), callers)
    settle()
    return portions


def settle() -> None:
    """Take what is loaded out of the garbage collector's sight: a collection would walk it amid a timed request."""
    gc.collect()
    gc.freeze()


def _register(registry: Connection, addresses: Mapping[str, Address]) -> int:
    fields = {f"{PREFIX}{name}": str(address) for name, address in addresses.items()}
    return int(registry.call(Message("register", fields), TIMEOUT).fields["server"])


def _report(registry: Connection, server: int, partitions: Iterable[Partition]) -> None:
    for partition in {partition.name: partition for partition in partitions}.values():
        tensors = "\n".join(partition.awaited(server))
        registry.call(Message("report", {"server": server, "partition": partition.name, "tensors": tensors}), TIMEOUT)
