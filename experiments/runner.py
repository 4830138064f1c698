"""Runs an experiment: starts the cluster, holds the gate, times the requests, keeps each sample as it is measured."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import transports
from cluster.client import Answer, Client
from cluster.courier import Courier
from cluster.host import settle
from cluster.launch import Cluster, Nursery, Settings
from cluster.local import LocalCluster
from cluster.partition import export
from experiments import gate
from experiments.prepare import Prepared, route_of
from experiments.progress import Progress
from experiments.samples import Sample, Writer
from experiments.schedule import Block, blocks
from experiments.specification import Cell
from transports.base import Address
from transports.errors import WireError

__all__ = ["run"]


def run(prepared: Prepared, samples: Writer, progress: Progress, nursery: Nursery | None = None) -> None:
    """Measure every cell of `prepared`: a row of `samples` for each timed request, written before the next one begins.

    `nursery` starts the processes; without it, only cells carried by `none` can run.
    Raises `ClusterDown` for a process that ended, `OutputDiffers` for a wrong answer, and the `WireError` of a request
    that failed. What was measured until then is in `samples`; nothing is left running.
    """
    experiment = prepared.experiment
    with _bench(prepared, progress, nursery) as bench:
        for cell in experiment.cells:
            progress.phase(f"checking {cell.name}")
            bench.warm_up(cell)
        settle()
        for block in blocks(len(experiment.cells), experiment.runs, experiment.order, experiment.seed):
            for sample in bench.measure(block):
                samples.append(sample)
                progress.advance(sample.cell.name, sample.seconds)


@dataclass(frozen=True)
class _Bench:
    """Makes requests as cells describe them, holds each answer against the right one, and knows why one failed."""

    prepared: Prepared
    client: Client
    check: Callable[[], None]
    """Raises where a process of the cluster has ended."""

    def warm_up(self, cell: Cell) -> None:
        """Requests that are not timed, with every variant of the input at least once."""
        for number in range(max(self.prepared.experiment.warmup, len(self.prepared.inputs[cell.batch]))):
            self._request(cell, number)

    def measure(self, block: Block) -> Iterator[Sample]:
        """The timed requests of a block, one after the other."""
        cell = self.prepared.experiment.cells[block.cell]
        for number in range(block.lead):
            self._request(cell, number)
        for number in block.runs:
            seconds, answer, deviation = self._request(cell, number)
            tally = answer.tally
            yield Sample(
                cell,
                number,
                seconds,
                block.number,
                compute_seconds=tally.compute,
                messages=tally.messages,
                payload_bytes=tally.payload,
                lookups=tally.lookups,
                connects=tally.connects,
                deviation=deviation,
            )

    def _request(self, cell: Cell, number: int) -> tuple[float, Answer, float]:
        """(seconds from arrays in the client's memory to arrays in the client's memory, answer, its deviation)."""
        partition = self.prepared.partitions[cell]
        route = route_of(cell, partition)
        variant = number % len(self.prepared.inputs[cell.batch])
        inputs = self.prepared.inputs[cell.batch][variant]
        try:
            start = time.perf_counter()
            answer = self.client.infer(partition, route, inputs, self.prepared.experiment.timeout)
            seconds = time.perf_counter() - start
        except WireError as error:
            self.check()
            raise type(error)(f"cell {cell.name}: {error}") from error
        return (
            seconds,
            answer,
            gate.check(answer.outputs, self.prepared.expected[cell.batch][variant], cell.name, partition),
        )


@contextlib.contextmanager
def _bench(prepared: Prepared, progress: Progress, nursery: Nursery | None) -> Iterator[_Bench]:
    """A client with everything that it talks to; on exit, all of it is gone."""
    options = prepared.experiment.option
    carriers = {name: transports.make(name, options) for name in prepared.transports}
    registries: dict[str, Address] = {}
    check: Callable[[], None] = lambda: None  # noqa: E731
    # A call over `none` is a call: a chain of servers is a stack of Python frames, about ten for each hop.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 20 * len(prepared.program.graph.operations)))
    with contextlib.ExitStack() as stack:
        if nursery and (remote := prepared.chosen(remote=True)):
            exports = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitbench-")))
            for partition in remote:
                export(prepared.program, partition, exports)
                progress.phase(f"exported {len(partition.plan.stages)} stages of {partition.name}")
            settings = Settings(
                transports=tuple(name for name in carriers if name != "none"),
                servers=max(partition.servers for partition in remote),
                exports=exports,
                workers=prepared.workers,
                threads=prepared.experiment.threads,
                malloc=prepared.experiment.malloc,
                options=tuple(f"{key}={value}" for key, value in options.items()),
            )
            cluster = Cluster(settings, nursery, progress.phase)
            registries |= cluster.registries
            check = cluster.check
        if direct := prepared.chosen(remote=False):
            local = LocalCluster(direct, prepared.program, carriers["none"])
            registries |= stack.enter_context(local).registries
        courier = stack.enter_context(contextlib.closing(Courier(carriers, registries)))
        yield _Bench(prepared, Client(courier), check)
