"""Runs an experiment: starts the cluster, times the requests, checks each answer and stores each sample at once."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import NoReturn

import msgspec

import transports
from cluster.client import Answer, Client
from cluster.dispatcher import Dispatcher
from cluster.errors import NoServer
from cluster.in_process import InProcessCluster
from cluster.launch import Cluster
from cluster.launchers import HINDSIGHT
from cluster.machines import NONE, Machines
from cluster.pinning import cores, pinned
from cluster.result_receiver import ResultReceiver
from experiments.measure import gate, lossy_gate, nodes, open_loop, runtimes, wire
from experiments.measure import links as cell_links
from experiments.measure.answered import answered, missed
from experiments.measure.fault_injector import FaultInjector
from experiments.measure.gate import Verdict
from experiments.measure.links import CellLinks
from experiments.measure.local import LocalModel
from experiments.measure.observed import Observed
from experiments.measure.prepare import LINKED, Prepared, route_of
from experiments.measure.progress import Progress
from experiments.measure.stopping import Stopping
from experiments.measure.writers import Writers
from experiments.spec.experiment import Cell, local_of
from experiments.spec.load import arrivals, in_flight, rates, untimed_limit
from experiments.spec.schedule import Block, blocks, warm_ups
from experiments.store.samples import Sample
from partitioning.command_line import check_interrupted
from transports import packing
from transports.address import Address
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, ResourceExhausted, WireError
from transports.process import freeze_garbage
from transports.sockets import Deadline

Keep = Callable[[Sample], None]

ENDED = (ConnectError, ConnectionLost, NoServer)
"""Errors of a request whose server may have ended. Only after these errors is the server's exit status awaited."""
MISSES = (DeadlineExceeded, ResourceExhausted)
"""Errors that mean overload of an open loop: the time limit has passed, or a queue or all workers are full."""


def run(
    prepared: Prepared,
    writers: Writers,
    progress: Progress,
    machines: Machines = NONE,
    each_round: Callable[[int, CellRunner], None] = lambda number, runner: None,
) -> None:
    """Measure every cell of `prepared`: a sample for each timed request.

    The sample is written before the next request begins; with several requests in flight, as soon as one is answered,
    or has missed its time limit under an open-loop load.
    `machines` run the processes; without a launcher only cells over `none` can run. `each_round` is called before the
    first block of each round, with its number and the object that makes the requests. The experiment's `until_stable`
    and `limit` may end it after a round.

    Raises `ClusterDown` for a process that ended, `OutputDiffers` for a wrong answer, and the `WireError` of a failed
    request. Requests answered until then, or in flight then and answered later, have samples. All processes end.
    """
    experiment = prepared.experiment
    with cell_runner(prepared, progress, machines, writers) as runner:
        for cell in experiment.cells:
            progress.phase(f"checking {cell.name}")
            runner.warm_up(cell)
        freeze_garbage()
        stopping, last = Stopping(experiment), -1

        def keep(sample: Sample) -> None:
            writers.samples.append(sample)
            stopping.add(sample)
            progress.advance(sample.cell.name, sample.seconds)

        concurrency = [cell.concurrency for cell in experiment.cells]
        order = experiment.runs, experiment.turns, experiment.seed, experiment.replicas
        for block in blocks(concurrency, *order, rates(experiment.cells)):
            check_interrupted()
            if block.round != last:
                if last >= 0 and stopping.due():
                    break
                each_round(block.round, runner)
                last = block.round
            runner.measure(block, keep)


@dataclass(frozen=True)
class CellRunner:
    """Makes the requests of cells, checks each answer, and finds the cause of a failure."""

    prepared: Prepared
    client: Client
    direct: Mapping[Cell, runtimes.Direct]
    """Answers the requests of cells without nodes."""
    machines: Machines
    links: CellLinks
    cluster: Cluster | None
    observed: Observed
    fault_injector: FaultInjector | None
    began: float
    """The time of zero on the clock of the samples' `start`."""

    def warm_up(self, cell: Cell) -> None:
        """Untimed requests."""
        with self.in_turn(cell):
            for number in range(warm_ups(self.prepared.experiment.warmup)):
                with self._explained(cell):
                    self._request(cell, number, untimed_limit(cell, self.prepared.experiment))

    def measure(self, block: Block, keep: Keep) -> None:
        """Make the requests of a block as the cell sends them: one by one, overlapping, or in an open loop. `keep` is
        called with the counted samples."""
        experiment = self.prepared.experiment
        cell = experiment.cells[block.cell]
        alone = experiment.pin == "on" and cell.transport == "none"
        measure = self._one_by_one if cell.concurrency == 1 else self._overlapping
        measure = self._open_loop if cell.load else measure
        observed = self.observed.block(cell, block, self._explained)
        with self.in_turn(cell), observed, pinned(cores()[:1]) if alone else contextlib.nullcontext():
            measure(cell, block, lambda sample: keep(sample) if sample.run >= 0 else None)
        if self.fault_injector and self.cluster:
            self.cluster.wait_ready()

    @contextlib.contextmanager
    def in_turn(self, cell: Cell) -> Iterator[None]:
        """Impose the links of the cell, and keep the runtime that answers it awake."""
        with self._explained(cell):
            self.links.impose(cell)
        with self.direct[cell].awake() if cell in self.direct else contextlib.nullcontext():
            yield

    def _one_by_one(self, cell: Cell, block: Block, keep: Keep) -> None:
        for number in block.numbers:
            keep(self._sample(cell, number, block))

    def _overlapping(self, cell: Cell, block: Block, keep: Keep) -> None:
        """After an error, requests in flight are awaited, and kept if they are answered."""
        with ThreadPoolExecutor(cell.concurrency) as clients:
            begun = [clients.submit(self._sample, cell, number, block) for number in block.numbers]
            waiting = set(begun)
            try:
                for done in as_completed(begun):
                    waiting.remove(done)  # first, so that no sample is kept twice
                    keep(done.result())
            finally:
                clients.shutdown(cancel_futures=True)
                for done in waiting:
                    if not done.cancelled() and not done.exception():
                        keep(done.result())

    def _open_loop(self, cell: Cell, block: Block, keep: Keep) -> None:
        """Make the uncounted requests one by one, then each timed request at its intended moment."""
        for number in block.numbers[: block.lead]:
            self._loaded(cell, number, block, time.perf_counter())
        experiment, numbers = self.prepared.experiment, block.runs
        offsets, threads = arrivals(cell, block, experiment.seed), in_flight(cell, experiment)
        open_loop.send(offsets, lambda place, at: self._loaded(cell, numbers[place], block, at), keep, threads)

    def _loaded(self, cell: Cell, number: int, block: Block, intended: float) -> Sample:
        """Make a request and return its sample. `intended`: the start of its time limit, on `time.perf_counter`."""
        timeout, start = self.prepared.experiment.timeout, intended - self.began
        late = time.perf_counter() - intended
        try:
            if late >= timeout:
                raise DeadlineExceeded(f"the request could not begin within {timeout:g} s")
            seconds, answer, verdict = self._request(cell, number, timeout - late, late)
        except WireError as error:
            took = time.perf_counter() - intended
            # A runtime may be unusable after a deadline.
            if not (isinstance(error, MISSES) or took >= timeout) or cell in self.direct:
                self.fail(cell, error)
            if self.machines.launcher:
                self.machines.launcher.check(0.0)
            return missed(cell, number, block, max(timeout, took), start, late)
        if late + seconds > timeout:
            return missed(cell, number, block, late + seconds, start, late)
        sample = answered(cell, number, block, late + seconds, start, answer, verdict)
        return replace(sample, wire_bytes=wire.counting(cell)(), late_seconds=late)

    def _sample(self, cell: Cell, number: int, block: Block) -> Sample:
        if self.fault_injector and cell.transport != "none":
            self.fault_injector.before(cell, number)
        here = not self.prepared.experiment.several_machines
        while True:
            with self._explained(cell):
                crossed = wire.counting(cell, lambda: self.links.repeated(cell), here=here)
            start = time.perf_counter() - self.began
            try:
                seconds, answer, verdict = self._request(cell, number, self.prepared.experiment.timeout)
                break
            except WireError as error:
                if not (self.fault_injector and self.fault_injector.expected(cell, error)):
                    self.fail(cell, error)
                self.fault_injector.failed(cell, number, start, error)
        with self._explained(cell):
            wire_bytes = crossed()
        return replace(answered(cell, number, block, seconds, start, answer, verdict), wire_bytes=wire_bytes)

    @contextlib.contextmanager
    def _explained(self, cell: Cell) -> Iterator[None]:
        """If the code inside the `with` block fails while it asks processes something untimed, raise the cause."""
        try:
            yield
        except WireError as error:
            self.fail(cell, error)

    def fail(self, cell: Cell, error: WireError) -> NoReturn:
        """Raise the cause of a failed request: a process that ended, or else the error itself."""
        patience = Deadline.after(HINDSIGHT if isinstance(error, ENDED) else 0.0)
        if self.machines.launcher:
            self.machines.launcher.check(patience.left())
        raise type(error)(f"cell {cell.name}: {error}") from error

    def _request(self, cell: Cell, number: int, timeout: float, late: float = 0.0) -> tuple[float, Answer, Verdict]:
        """`infer`, followed by `check`."""
        seconds, answer = self.infer(cell, number, timeout, late)
        return seconds, answer, self.check(cell, number, answer)

    def infer(self, cell: Cell, number: int, timeout: float, late: float = 0.0) -> tuple[float, Answer]:
        """(seconds from inputs to outputs, both arrays in the client's memory; answer). Raises `WireError`.

        `late`: seconds since the intended start of the request.
        """
        partition = self.prepared.partitions[cell]
        route = route_of(cell, partition)
        if self.fault_injector and number < 0:  # finds a replaced node now, not after a lease
            route = msgspec.structs.replace(route, registry="per-hop")
        variants = self.prepared.inputs[cell.batch]
        inputs = variants[number % len(variants)]
        trace = self.observed.context(cell)
        start = time.perf_counter()
        if cell in self.direct:
            answer = self.direct[cell].infer(inputs)
        else:
            answer = self.client.infer(partition, route, inputs, timeout, cell.repeats, trace)
        end = time.perf_counter()
        self.observed.ended(trace, number, start - late, start, end)
        return end - start, answer

    def check(self, cell: Cell, number: int, answer: Answer) -> Verdict:
        """Compare the answer to the request `number` with the right one. Raises `OutputDiffers`."""
        expected = self.prepared.expected[cell.batch]
        check = gate.check if packing.is_lossless(cell.wire) else lossy_gate.check
        return check(answer.outputs, expected[number % len(expected)], cell.name, self.prepared.partitions[cell])


@contextlib.contextmanager
def cell_runner(
    prepared: Prepared, progress: Progress, machines: Machines, writers: Writers | None = None
) -> Iterator[CellRunner]:
    """Start the processes and handlers of all cells, and a client; on exit all end. No `writers`: nothing is kept."""
    experiment, launcher = prepared.experiment, machines.launcher
    options = machines.options(prepared.transports) | dict(experiment.options)
    made = {name: transports.make(name, options) for name in prepared.transports}
    registries: dict[str, Address] = {}
    cluster: Cluster | None = None
    # A message over `none` is a Python call: a chain of servers is a stack of about ten frames for each hop.
    sys.setrecursionlimit(max(sys.getrecursionlimit(), 20 * len(prepared.program.graph.operations)))
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(
            prepared.model_servers.started(prepared.served, prepared.program, launcher, progress.phase)
        )
        links = stack.enter_context(cell_links.started(experiment, machines))
        if launcher and prepared.chosen(remote=True):
            cluster = stack.enter_context(nodes.started(prepared, progress, machines, servers))
            registries |= cluster.registries
        if direct := prepared.chosen(remote=False):
            at = servers.addresses(progress.phase)
            linked = [partition.name for partition in direct if partition.name.endswith(f"-{LINKED}")]
            others = dict.fromkeys(linked, cell_links.relayed(links, at)) if linked else {}
            local = InProcessCluster(direct, prepared.program, made["none"], at, others)
            registries |= stack.enter_context(local).registries
        dispatcher = stack.enter_context(contextlib.closing(Dispatcher(made, registries, links.relays.here)))
        receiver = stack.enter_context(contextlib.closing(ResultReceiver(made, machines.address)))
        if cluster:
            cell_links.publish(links, cluster, receiver, made)
        answers = {
            cell: runtimes.Direct(LocalModel(cell.engine, prepared.program, partition.plan).infer)
            for cell, partition in prepared.partitions.items()
            if cell == local_of(cell)
        }
        answers |= stack.enter_context(runtimes.started(prepared, launcher, progress.phase))
        began = time.perf_counter()
        faults = writers.faults if writers else None
        fault_injector = FaultInjector.of(experiment, cluster, faults, lambda: time.perf_counter() - began)
        observed = Observed.of(prepared, cluster, made, dispatcher, writers, began) if writers else Observed()
        client = Client(dispatcher, receiver)
        yield CellRunner(prepared, client, answers, machines, links, cluster, observed, fault_injector, began)
