"""Makes a profile: first the hosts, then the transports; each file is written as soon as it is complete."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from cluster.launchers import LocalLauncher
from cluster.machines import Machines
from experiments.execute import begun
from experiments.measure.prepare import Prepared
from experiments.measure.progress import Progress
from experiments.profile import hosts, messages
from experiments.profile.__main__ import ProfileOptions, record
from experiments.profile.hosts import HostTimes
from experiments.profile.messages import Times
from experiments.spec.experiment import Experiment
from experiments.store import environment, files, rows
from experiments.store import profile as store
from experiments.store.files import replace_file
from partitioning.candidates import positions
from partitioning.graph import Graph
from partitioning.strategies import make_plan
from partitioning.traffic import Traffic
from transports.base import Array


def run(options: ProfileOptions, experiment: Experiment, folder: Path, argv: Sequence[str]) -> None:
    """Write the profile into `folder`. Raises what `experiments.execute.execute` raises."""
    cuts = [cell.cut for cell in experiment.cells if cell.mode == "submodel"]
    with (
        begun(experiment, folder, argv, record=record(options, experiment)) as (prepared, progress, on),
        environment.finishing(folder, lambda: None),
    ):
        if found := on.record():
            environment.update(folder, machines=found)
        graph, weights = prepared.program.graph, _weights(prepared)
        replace_file(folder / files.GRAPH, msgspec.json.encode(graph).decode())
        at = _positions(graph, options.positions, cuts)
        contents = _contents(prepared, at)
        _hosts(prepared, on, folder, at, weights, options.rounds, progress, contents)
        _messages(experiment, on, folder, contents, options.rounds, progress)
        if warning := on.measure_again():
            environment.update(folder, links_warning=warning)
        if on.ways:
            environment.update(folder, machines=on.record())


def _positions(graph: Graph, most: int, cuts: Sequence[str]) -> list[int]:
    """The positions to measure, which include those of the named cuts and of the equal split into two."""
    count = len(graph.operations)
    plans = [make_plan(graph, "submodel", cut) for cut in cuts]
    plans += [make_plan(graph, "submodel", "equal", 2)] if count > 1 else []
    order = {operation.name: place for place, operation in enumerate(graph.operations)}
    named = {order[stage.operations[0]] for plan in plans for stage in plan.stages[1:]}
    return sorted({*positions(graph, most), *named})


def _weights(prepared: Prepared) -> list[int]:
    """Bytes of the weights of each operation. Operations that share a layer each count all its weights."""
    steps = prepared.program.steps
    return [
        sum(int(np.prod(weight.shape)) * np.dtype(weight.dtype).itemsize for weight in _of(steps[op.name].operation))
        for op in prepared.program.graph.operations
    ]


def _of(operation: Any) -> Iterable[Any]:
    return getattr(operation, "weights", ())


def _hosts(
    prepared: Prepared,
    machines: Machines,
    folder: Path,
    at: Sequence[int],
    weights: Sequence[int],
    rounds: int,
    progress: Progress,
    contents: Mapping[int, Array],
) -> None:
    graph, cell = prepared.program.graph, prepared.experiment.cells[0]
    runs = hosts.runs_of(at, len(graph.operations))
    crossing = _crossing(graph, cell.batch)
    with (
        rows.Writer(folder / files.PROFILE, store.RUNS) as of_runs,
        rows.Writer(folder / files.OPERATIONS, store.OPERATIONS) as of_operations,
        rows.Writer(folder / files.HOSTS, store.HOSTS) as of_hosts,
    ):
        for name, times in hosts.measure(prepared, machines, runs, weights, rounds, progress.phase):
            for row in _runs(name, cell.engine, cell.batch, times):
                of_runs.append(store.Record(row))
            for place, operation in enumerate(graph.operations):
                row = {"host": name, "position": place, "operation": operation.name, "kind": operation.kind}
                row |= {"seconds": float(times.operations[place]), "weight_bytes": weights[place]}
                row |= dict(zip(("tensors", "bytes"), crossing[place], strict=True))
                of_operations.append(store.Record(row))
            of_hosts.append(store.Record({"host": name, "base_bytes": times.base, "built_bytes": times.built}))


def _runs(host: str, engine: str, batch: int, times: HostTimes) -> Iterable[Mapping[str, Any]]:
    for (first, last), seconds in times.runs.items():
        row = {"host": host, "engine": engine, "batch": batch, "first": first, "last": last, "runs": len(seconds)}
        yield row | dict(zip(("seconds", "low", "high"), store.median(seconds), strict=True))


def _crossing(graph: Graph, batch: int) -> list[tuple[int, int]]:
    """(tensors, bytes) that cross a cut before each operation."""
    traffic = Traffic(graph, batch)
    places = range(len(graph.operations))
    return [(len(traffic.crossing(place)), traffic.crossing_bytes(place)) for place in places]


def _contents(prepared: Prepared, at: Sequence[int]) -> dict[int, Array]:
    """Position -> what crosses a cut there for the first input; 0: the inputs themselves; negative: `reference`."""
    from partitioning import costs, engines  # TensorFlow

    cell, program = prepared.experiment.cells[0], prepared.program
    traffic = Traffic(program.graph, cell.batch)
    values = costs.all_values(program, prepared.inputs[cell.batch][0])
    found = {
        place: messages.content_of([engines.to_array(values[name]) for name in traffic.crossing(place)])
        for place in (0, *at)
    }
    return messages.reference(found[0]) | found


def _messages(
    experiment: Experiment,
    machines: Machines,
    folder: Path,
    contents: Mapping[int, Array],
    rounds: int,
    progress: Progress,
) -> None:
    """Time messages between processes of this machine, since the nodes of a cluster elsewhere would be behind links."""
    if machines.settings.remote:
        with LocalLauncher() as launcher:
            found = messages.measure(experiment, launcher, contents, rounds, progress.phase)
    else:
        assert machines.launcher is not None
        found = messages.measure(experiment, machines.launcher, contents, rounds, progress.phase)
    with rows.Writer(folder / files.MESSAGES, store.MESSAGES) as writer:
        for (transport, position), times in found.items():
            writer.append(store.Record(_message(transport, position, contents[position].nbytes, times)))


def _message(transport: str, position: int, nbytes: int, times: Times) -> Mapping[str, Any]:
    place = float(position) if position >= 0 else float("nan")
    row = {"transport": transport, "position": place, "bytes": nbytes, "runs": len(times.seconds)}
    row |= {"wire_bytes": min(times.wire_bytes)}
    return row | dict(zip(("seconds", "low", "high"), store.median(np.asarray(times.seconds)), strict=True))
