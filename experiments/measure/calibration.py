"""Finds the capacity of cells with `--load poisson:auto`, in a cluster of its own, before an experiment is measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from cluster.machines import Machines
from experiments.measure.prepare import Prepared
from experiments.measure.progress import Progress
from experiments.measure.runner import CellRunner, cell_runner
from experiments.spec import sweep
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.load import patient_limit
from experiments.spec.schedule import Block
from experiments.spec.sweep import Capacity
from experiments.store.samples import Sample
from transports.process import freeze_garbage

LASTING = 2.0
"""Seconds for which a block of requests has to last, unless it is the first block of a cell."""
TURNS = 4
"""Least requests of a block for each request in flight."""


def calibrate(prepared: Prepared, progress: Progress, machines: Machines) -> tuple[Prepared, list[dict[str, Any]]]:
    """Run each cell of `sweep.asked` in a closed loop, and replace it by cells at fractions of its capacity.

    Returns the experiment with these cells, and a record of each capacity. A cell takes a few seconds, or the time of
    about 150 answers if that is longer. With the experiment's `limit`, the requests in flight are doubled only until
    that many seconds have passed. Every answer is checked. Raises what `runner.run` raises. No process is left running.
    """
    experiment = prepared.experiment
    twins = {cell: sweep.closed(cell, 1) for cell in sweep.asked(experiment)}
    found: dict[Cell, Capacity] = {}
    with cell_runner(_closed(prepared), progress, machines) as runner:
        freeze_garbage()
        until = time.monotonic() + (experiment.limit or math.inf)
        for twin in dict.fromkeys(twins.values()):
            cells = [sweep.closed(twin, level) for level in sweep.levels(twin, experiment.replicas)]
            found[twin] = best = find(runner, cells, progress.phase, until)
            at = f"{best.per_second:.3g} answers per second with {best.in_flight} requests in flight"
            progress.phase(f"capacity of {twin.name}: {at}")
    capacities = {cell: found[twin] for cell, twin in twins.items()}
    known = _expanded(prepared, sweep.expanded(experiment, capacities))
    progress.phase(sweep.announced(known.experiment))
    progress.expect(experiment.runs * len(known.partitions), [cell.name for cell in known.partitions])
    return known, [sweep.record(cell, capacity) for cell, capacity in capacities.items()]


def capacity_of(samples: Sequence[Sample], in_flight: int) -> float:
    """Answers per second of consecutive requests in a closed loop, from the first start to the last end.

    At the first start, `in_flight` - 1 uncounted requests are in flight. Half of their work falls into this time.
    """
    end = max(sample.start + sample.seconds for sample in samples)
    return (len(samples) + (in_flight - 1) / 2) / (end - min(sample.start for sample in samples))


def find(runner: CellRunner, cells: Sequence[Cell], notify: Callable[[str], None], until: float) -> Capacity:
    """The capacity of a cell. `cells`: its closed loops, each with twice the requests in flight of the one before.

    The search ends when doubling no longer raises the rate of answers, or at `until` (on `time.monotonic`).
    """
    best: Capacity | None = None
    for measured in _measured(runner, cells, notify):
        gained = best is None or measured.per_second >= sweep.GAIN * best.per_second
        if best is None or measured.per_second > best.per_second:
            best = measured
        if not gained or time.monotonic() >= until:
            break
    assert best is not None
    return best


def _measured(runner: CellRunner, cells: Sequence[Cell], notify: Callable[[str], None]) -> Iterator[Capacity]:
    runner.warm_up(cells[0])
    requests = 0
    for cell in cells:
        requests = max(TURNS * cell.concurrency, requests)
        notify(f"finding the capacity of {cell.name}: {requests} requests")
        samples: list[Sample] = []
        place = runner.prepared.experiment.cells.index(cell)
        runner.measure(Block(0, 0, place, cell.concurrency, range(requests)), samples.append)
        found = Capacity(capacity_of(samples, cell.concurrency), cell.concurrency, len(samples))
        requests = math.ceil(LASTING * found.per_second)
        yield found


def _closed(prepared: Prepared) -> Prepared:
    """The closed loops of all cells that have to be calibrated.

    Their time limit is at least the default one: with so many requests in flight, each takes longer than under a load.
    """
    experiment = prepared.experiment
    partitions = {
        sweep.closed(cell, level): prepared.partitions[cell]
        for cell in sweep.asked(experiment)
        for level in sweep.levels(cell, experiment.replicas)
    }
    asked = replace(experiment, cells=tuple(partitions), timeout=patient_limit(experiment))
    return replace(prepared, experiment=asked, partitions=partitions)


def _expanded(prepared: Prepared, experiment: Experiment) -> Prepared:
    of = {replace(cell, load=""): partition for cell, partition in prepared.partitions.items()}
    return replace(
        prepared,
        experiment=experiment,
        partitions={cell: of[replace(cell, load="")] for cell in experiment.cells},
    )
