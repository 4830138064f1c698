"""Asks the nodes of a run before and after each block: the resources they used, and the spans of traced requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

from cluster import runtimes
from cluster.dispatcher import Dispatcher
from cluster.launch import Cluster
from experiments.measure.prepare import Prepared
from experiments.measure.tracing import Tracer
from experiments.measure.usage import NodeUsage
from experiments.measure.writers import Writers
from experiments.spec.experiment import Cell
from experiments.spec.schedule import Block
from transports.base import Transport
from transports.spans import Context, new_context


@dataclass(frozen=True)
class Observed:
    """Asks the nodes through `usage` and `tracer`; without both, it asks nothing."""

    usage: NodeUsage | None = None
    tracer: Tracer | None = None

    @classmethod
    def of(
        cls,
        prepared: Prepared,
        cluster: Cluster | None,
        made: Mapping[str, Transport],
        dispatcher: Dispatcher,
        writers: Writers,
        began: float,
    ) -> Observed:
        """`made`: transports by name. `began`: the time of zero on the run's clock."""
        transport = next((each for name, each in made.items() if name != "none"), None)
        usage = tracer = None
        if cluster and transport and writers.nodes:
            usage = NodeUsage(cluster, transport, dispatcher.traffic.bytes, writers.nodes)
        if writers.phases and writers.trace:
            experiment = prepared.experiment
            servers = len(cluster.nodes) // experiment.replicas if cluster else 1
            here = not experiment.several_machines
            tracer = Tracer(writers.phases, writers.trace, began, cluster, transport, servers, here)
        return cls(usage, tracer)

    def context(self, cell: Cell) -> Context | None:
        """The span of a new request of `cell`, if it is to be traced."""
        return new_context() if self.tracer and cell.trace == "on" else None

    def ended(self, context: Context | None, run: int, intended: float, begin: float, end: float) -> None:
        """`Tracer.end` for a request that is traced."""
        if self.tracer and context:
            self.tracer.end(context, run, intended, begin, end)

    @contextlib.contextmanager
    def block(
        self, cell: Cell, block: Block, explained: Callable[[Cell], AbstractContextManager[None]]
    ) -> Iterator[None]:
        """Record resources and spans of the requests of the block. If asking a node fails, `explained` raises the
        cause."""
        usage = self.usage if cell.transport != "none" and not runtimes.is_runtime(cell.transport) else None
        tracer = self.tracer if cell.trace == "on" else None
        with explained(cell):
            before = usage.read() if usage else None
        if tracer:
            tracer.forget()
        try:
            yield
        except BaseException:
            if tracer:
                tracer.salvage(cell, block)
            raise
        with explained(cell):
            if usage and before:
                usage.write(cell, block, before, usage.read())
            if tracer:
                tracer.write(cell, block)
