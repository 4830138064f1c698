"""`python -m experiments.threads`: how many workers nested calls need, and what happens with fewer.

A server has so many workers; in the flow `nested` each of them waits while its call is answered further down. Once a
chain of calls comes back to a server more often than it has workers, it blocks for good, and nothing but a deadline
ends it (`--when-full wait`, as gRPC's own servers do) - or it is refused at once (`--when-full refuse`, the default of
every experiment). The flows `hub` and `forward` wait for nobody's workers.

A chain of small layers is dealt to the servers in turn, so that every call crosses to another server. For each number
of workers, real processes are started with just so many and asked once in each flow.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

import transports
from cluster.client import Client
from cluster.courier import Courier
from cluster.flows import FLOWS
from cluster.launch import Cluster, Nursery, Settings
from cluster.mailbox import Mailbox
from cluster.partition import Partition, export
from cluster.process import tune
from cluster.route import Route
from cluster.workers import workers_needed
from partitioning.placement import round_robin
from partitioning.strategies import make_plan
from transports.base import Array
from transports.errors import DeadlineExceeded, ResourceExhausted, SplitbenchError, UsageError, WireError

__all__ = ["Outcome", "main", "observe"]


@dataclass(frozen=True)
class Outcome:
    """What one request met: `completes`, `blocks` (until its deadline) or `refused`, and the seconds that it took."""

    workers: int
    flow: str
    outcome: str
    seconds: float


def observe(arguments: argparse.Namespace, notify: Callable[[str], None]) -> tuple[int, list[Outcome]]:
    """(the predicted minimum of workers, what was observed with one worker up to one more than that minimum)."""
    with contextlib.ExitStack() as stack:
        nursery = stack.enter_context(Nursery())
        tune(0, "keep")
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="splitbench-")))
        partition, inputs = _chain(arguments.depth, arguments.servers, folder)
        needed = workers_needed(partition, local_calls=True, send="bundle")
        option = f"{arguments.transport}.when_full={arguments.when_full}"
        outcomes = []
        for workers in range(1, needed + 2):
            notify(f"{workers} of {needed + 1} workers")
            wires = (arguments.transport,)
            settings = Settings(wires, arguments.servers, folder, workers, threads=1, options=(option,))
            with contextlib.closing(Cluster(settings, nursery)) as cluster:
                outcomes += list(_ask(partition, inputs, cluster, workers, arguments))
        return needed, outcomes


def _chain(depth: int, servers: int, folder: Path) -> tuple[Partition, Mapping[str, Array]]:
    """A chain of `depth` small layers, one a stage, exported for as many `servers`."""
    import keras

    from partitioning.program import read

    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4) for _ in range(depth))])
    program = read(model)
    plan = make_plan(program.graph, "layer", "equal", servers)
    partition = Partition("chain", plan, round_robin(plan, servers), ("eager",))
    export(program, partition, folder)
    return partition, {name: np.ones((1, 4), np.float32) for name in plan.inputs}


def _ask(
    partition: Partition,
    inputs: Mapping[str, Array],
    cluster: Cluster,
    workers: int,
    arguments: argparse.Namespace,
) -> Iterator[Outcome]:
    """One request in each flow. What blocked is over once its deadline has passed at every server."""
    name = arguments.transport
    carriers = {name: transports.make(name)}
    for flow in sorted(FLOWS, key=lambda flow: FLOWS[flow].waits):  # those that cannot block go first
        courier, mailbox = Courier(carriers, cluster.registries), Mailbox(carriers)
        with contextlib.closing(courier), contextlib.closing(mailbox):
            begun = time.perf_counter()
            route = Route(partition.name, "eager", name, flow=flow)
            outcome = _outcome(Client(courier, mailbox), partition, route, inputs, arguments.timeout)
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


def table(needed: int, outcomes: Sequence[Outcome]) -> Table:
    """A row for each number of workers, a column for each flow."""
    found = {(outcome.workers, outcome.flow): outcome for outcome in outcomes}
    made = Table(box=SIMPLE_HEAD, title="What one request meets, by workers of each server")
    for heading in ("workers", *FLOWS):
        made.add_column(heading, no_wrap=True)
    for workers in sorted({outcome.workers for outcome in outcomes}):
        cells = [found[workers, flow] for flow in FLOWS]
        words = [f"{cell.outcome} {cell.seconds:.2f} s" for cell in cells]
        made.add_row(f"{workers}{' (predicted)' if workers == needed else ''}", *words)
    return made


def observed_minimum(outcomes: Sequence[Outcome], flow: str) -> int | None:
    """The fewest workers with which the flow completes; `None` where it never does."""
    return min((item.workers for item in outcomes if item.flow == flow and item.outcome == "completes"), default=None)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when the prediction holds, 1 when it does not or something failed, 2 for a bad value."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    arguments = _parser().parse_args(argv)
    try:
        if min(arguments.depth, arguments.servers) < 1 or arguments.servers > arguments.depth or arguments.timeout <= 0:
            raise UsageError("give a depth and a timeout above zero, and no more servers than the chain is deep")
        needed, outcomes = observe(arguments, lambda text: print(text, file=sys.stderr))
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    Console().print(table(needed, outcomes))
    minimum = observed_minimum(outcomes, "nested")
    print(f"workers that nested calls need: predicted {needed}, observed {minimum}")
    return 0 if minimum == needed else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.threads", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    wires = [name for name in transports.NAMES if name != "none"]
    parser.add_argument("--transport", default="grpc", choices=wires, help="default: %(default)s")
    parser.add_argument("--depth", type=int, default=12, help="layers in the chain (default: %(default)s)")
    parser.add_argument("--servers", type=int, default=3, help="servers that share them (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=2.0, help="deadline in seconds (default: %(default)s)")
    parser.add_argument(
        "--when-full", default="wait", choices=("wait", "refuse"), help="when no worker is free (default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
