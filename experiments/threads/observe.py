"""Nested calls with too few workers, observed in real processes."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

import transports
from cluster import scratch
from cluster.client import Client
from cluster.device import PROCESSOR
from cluster.dispatcher import Dispatcher
from cluster.flows import FLOWS
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher
from cluster.partition import Partition, export
from cluster.process import tune
from cluster.request import Route
from cluster.result_receiver import ResultReceiver
from cluster.workers import workers_needed
from experiments.store import environment, files, rows, samples
from experiments.threads import report as threads_report
from experiments.threads.__main__ import Chain
from experiments.threads.report import Outcome, observed_minimum
from partitioning import command_line
from partitioning.placement import round_robin
from partitioning.strategies import make_plan
from transports.base import Array
from transports.errors import DeadlineExceeded, ResourceExhausted, WireError


def observe(
    chain: Chain, notify: Callable[[str], None], keep: Callable[[Outcome], None] = lambda _: None
) -> tuple[int, list[Outcome]]:
    """(predicted minimum of workers, outcomes of requests with one worker up to one more than that minimum).

    `notify` is called before each number of workers, `keep` with each outcome as soon as it is there.
    """
    with contextlib.ExitStack() as stack:
        PROCESSOR.restrict()
        launcher = stack.enter_context(LocalLauncher())
        tune(0, "keep")
        folder = stack.enter_context(scratch.folder())
        partition, inputs = _exported(chain, folder)
        needed = workers_needed(partition, local_calls=True, send="bundle")
        options = {f"{chain.transport}.when_full": chain.when_full}
        outcomes = []
        for workers in range(1, needed + 2):
            notify(f"{workers} of {needed + 1} workers")
            settings = Settings((chain.transport,), chain.servers, folder, workers, threads=1, options=options)
            with Cluster(settings, launcher) as cluster:
                for outcome in _requests(partition, inputs, cluster, workers, chain):
                    keep(outcome)
                    outcomes.append(outcome)
        return needed, outcomes


def _exported(chain: Chain, folder: Path) -> tuple[Partition, Mapping[str, Array]]:
    """The chain with a stage for each layer, exported for its servers, and an input."""
    import keras

    from partitioning.program import read

    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(chain.depth))])
    program = read(model)
    plan = make_plan(program.graph, "layer", "equal", chain.servers)
    partition = Partition("chain", plan, round_robin(plan, chain.servers), ("eager",))
    export(program, partition, folder)
    return partition, {name: np.ones((1, 4), np.float32) for name in plan.inputs}


def _requests(
    partition: Partition, inputs: Mapping[str, Array], cluster: Cluster, workers: int, chain: Chain
) -> Iterator[Outcome]:
    """One request in each flow. A blocked request ends once its deadline has passed at every server."""
    name = chain.transport
    made = {name: transports.make(name)}
    for flow in sorted(FLOWS, key=lambda flow: FLOWS[flow].waits):  # flows that cannot block go first
        dispatcher, receiver = Dispatcher(made, cluster.registries), ResultReceiver(made)
        with contextlib.closing(dispatcher), contextlib.closing(receiver):
            begun = time.perf_counter()
            route = Route(partition.name, "eager", name, flow=flow)
            outcome = _outcome(Client(dispatcher, receiver), partition, route, inputs, chain.timeout)
            yield Outcome(workers, flow, outcome, time.perf_counter() - begun)


def _outcome(client: Client, partition: Partition, route: Route, inputs: Mapping[str, Array], timeout: float) -> str:
    try:
        client.infer(partition, route, inputs, timeout)
    except DeadlineExceeded:
        return "blocks"
    except ResourceExhausted:
        return "refused"
    except WireError as error:
        return f"fails: {error}"
    return "completes"


def run(chain: Chain, out: str, argv: Sequence[str]) -> int:
    """Observe `chain`, keep the outcomes in the folder `out`, if given, and print them.

    Returns 0 if the observed minimum of workers is the predicted one, else 1.
    """
    scratch.home()
    needed, outcomes = _recorded(chain, Path(out), argv) if out else observe(chain, _say)
    command_line.console().print(_table(needed, outcomes))
    minimum = observed_minimum(outcomes, "nested")
    print(f"workers that nested calls need: predicted {needed}, observed {minimum}")
    return 0 if minimum == needed else 1


def _recorded(chain: Chain, folder: Path, argv: Sequence[str]) -> tuple[int, list[Outcome]]:
    """Observe, and write a report even if an error ends the run."""
    samples.claim(folder)
    environment.begin(folder, chain.record(), argv)
    with (
        environment.finishing(folder, lambda: threads_report.build(folder)),
        rows.Writer(folder / files.THREADS, threads_report.COLUMNS) as writer,
    ):
        needed, outcomes = observe(chain, _say, writer.append)
        environment.update(folder, predicted=needed)
    threads_report.build(folder)
    return needed, outcomes


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _table(needed: int, outcomes: Sequence[Outcome]) -> Table:
    made = Table(box=SIMPLE_HEAD, title="Outcome of one request, by workers of each server")
    for heading in ("workers", *FLOWS):
        made.add_column(heading, no_wrap=True)
    for row in threads_report.grid(needed, outcomes):
        made.add_row(*row)
    return made
