"""Measures the steps of a ladder, once in each round of an experiment."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from msgspec.structs import replace

import transports
from cluster.partition import Partition
from cluster.runtimes.base import Infer
from experiments.measure.local import LocalModel
from experiments.measure.prepare import Prepared, route_of
from experiments.measure.runner import CellRunner
from experiments.sizes import echo
from experiments.sizes.bare import BARE, BareConnection
from experiments.sizes.measure import AnyConnection
from experiments.spec.experiment import Cell
from experiments.store import ladder, rows
from experiments.store.ladder import Step
from experiments.store.statistics import chain_of, none_of
from partitioning.engine_table import EMPTY
from transports import Connection, Message
from transports.base import Array

CALLS = 3
"""Timed calls of each step in a round, after an uncounted call."""
CLIENT = -1
"""Stands for the client among the numbers of servers."""
SOCKETS = "bare-tcp"

Once = Callable[[CellRunner], float]
"""Measures a rung once and returns seconds."""
Steps = Mapping[Cell, Mapping[str, Once]]
"""Cell -> name of a rung -> function that measures it."""


@contextlib.contextmanager
def measured(prepared: Prepared, folder: Path) -> Iterator[Callable[[int, CellRunner], None]]:
    """Write ladder.csv into `folder`. Yields a function that measures every rung in the round of the given number."""
    cells = [cell for cell in prepared.partitions if cell.transport in transports.NAMES and cell.transport != "none"]
    used = dict.fromkeys(cell.transport for cell in cells)
    library = {name: alone for name in used for alone, its in BARE.items() if name in its.compared}
    names = dict.fromkeys([*used, SOCKETS, *library.values()])
    options = prepared.experiment.options
    with (
        echo.process(*names, options=options, malloc=prepared.experiment.malloc) as (found, _),
        ladder.writer(folder) as writer,
        contextlib.ExitStack() as stack,
    ):
        bare = {name: stack.enter_context(BareConnection(name, found[name])) for name in names if name in BARE}
        steps: dict[Cell, dict[str, Once]] = {}
        for cell in cells:
            connection = transports.make(cell.transport, options).connect(found[cell.transport], cell.codec)
            stack.callback(connection.close)
            steps[cell] = _steps(prepared, cell, connection, bare, library) | _empty(prepared, cell, stack)
        rng = random.Random(prepared.experiment.seed)
        yield lambda number, runner: _round(steps, number, runner, rng, writer)


def _round(steps: Steps, number: int, runner: CellRunner, rng: random.Random, writer: rows.Writer) -> None:
    pairs = [(cell, rung) for cell, rungs in steps.items() for rung in rungs]
    rng.shuffle(pairs)
    for cell, rung in pairs:
        once = steps[cell][rung]
        once(runner)
        for _ in range(CALLS):
            writer.append(Step(cell, rung, number, once(runner)))


def _steps(
    prepared: Prepared,
    cell: Cell,
    connection: Connection,
    bare: Mapping[str, BareConnection],
    library: Mapping[str, str],
) -> dict[str, Once]:
    """The rungs without requests."""
    partition, inputs = prepared.partitions[cell], prepared.inputs[cell.batch][0]
    model = LocalModel(cell.engine, prepared.program, partition.plan)
    sizes = {name: array.nbytes for name, array in model.tensors(inputs).items()}
    loads = [np.zeros(size, np.uint8) for trip in trips(partition, cell.flow, sizes) for size in trip]
    timeout = prepared.experiment.timeout

    def over(connection: AnyConnection) -> Once:
        return lambda _: sum(_one_way(connection, load, timeout) for load in loads)

    def row(runner: CellRunner) -> float:
        """The answer is checked as those of requests are, since a check empties caches for the call after it."""
        begun = time.perf_counter()
        answer = model.infer(inputs)
        seconds = time.perf_counter() - begun
        runner.check(cell, 0, answer)
        return seconds

    found: dict[str, Once] = {
        "row": row,
        "sockets": over(bare[SOCKETS]),
        "transport": over(connection),
    }
    if cell.transport in library:
        found["library"] = over(bare[library[cell.transport]])
    return found


def _empty(prepared: Prepared, cell: Cell, stack: contextlib.ExitStack) -> dict[str, Once]:
    """The rungs of requests whose stages compute nothing; none if the plan does not tell the sizes of all tensors.

    `stack` ends the deployment of plain sockets.
    """
    partition, inputs = prepared.partitions[cell], prepared.inputs[cell.batch][0]
    if any(None in edge.shape[1:] for edge in partition.plan.edges.values()):
        return {}
    timeout, deployed = prepared.experiment.timeout, list[Infer]()

    def request(cell: Cell) -> Once:
        partition = prepared.partitions[cell]
        route = replace(route_of(cell, partition), engine=EMPTY)
        return lambda runner: _timed(lambda: runner.client.infer(partition, route, inputs, timeout))

    def chain(runner: CellRunner) -> float:
        if not deployed:
            deploy = runner.direct[chain_of(cell)].deploy
            assert deploy is not None
            deployed.append(stack.enter_context(deploy(EMPTY)))
        return _timed(lambda: deployed[0](inputs, timeout))

    return {"empty": request(cell), "empty none": request(none_of(cell)), "empty chain": chain}


def _timed(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def _one_way(connection: AnyConnection, load: Array, timeout: float) -> float:
    """Half of the seconds of an echo of `load`."""
    message = Message("echo", {}, {"x": load})
    return _timed(lambda: connection.call(message, timeout)) / 2


def trips(partition: Partition, flow: str, sizes: Mapping[str, int]) -> list[tuple[int, int]]:
    """(bytes of a message, bytes of its answer) for each message of a request, with all tensors in one message.

    A message goes from the client or a server to each other server that awaits its tensors. In the flow `nested` every
    answer carries the model's outputs; in `hub` the client sends every message, and a server answers with its outputs;
    in `forward` only the last answer has the outputs.
    """
    plan, sent = partition.plan, dict[tuple[int, int], int]()
    answers: dict[int, int] = {}
    for name, edge in plan.edges.items():
        source = CLIENT if edge.producer is None else partition.placement[edge.producer]
        targets = {partition.placement[stage] for stage in edge.consumers} - {source}
        for target in sorted(targets):
            pair = (CLIENT, target) if flow == "hub" else (source, target)
            sent[pair] = sent.get(pair, 0) + sizes[name]
        if targets or name in plan.outputs:
            answers[source] = answers.get(source, 0) + sizes[name]
    final = sum(sizes[name] for name in plan.outputs)
    if flow == "hub":
        return [(size, answers.get(target, 0)) for (_, target), size in sent.items()]
    if flow == "nested":
        return [(size, final) for size in sent.values()]
    return [*((size, 0) for size in sent.values()), (final, 0)]
