"""Ends an experiment after a round: once its ratios are known well enough, or after a time limit."""

from __future__ import annotations

import time
from collections import defaultdict

import numpy as np

from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store.intervals import Blocks, half_width
from experiments.store.samples import Sample
from experiments.store.statistics import ratio_of


class Stopping:
    """Decides after each round whether to stop, from all counted samples. Time counts from the creation of this
    object."""

    def __init__(self, experiment: Experiment) -> None:
        self._experiment = experiment
        self._seconds: dict[Cell, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        self._began = time.monotonic()

    def add(self, sample: Sample) -> None:
        self._seconds[sample.cell][sample.round].append(sample.seconds)

    def due(self) -> bool:
        """Whether the limit has passed, or every ratio to a local model is known to within `until_stable` percent."""
        limit, percent = self._experiment.limit, self._experiment.until_stable
        if limit and time.monotonic() - self._began >= limit:
            return True
        compared = [cell for cell in self._experiment.cells if cell != local_of(cell)]
        return bool(percent and compared) and all(100 * self._half_width(cell) <= percent for cell in compared)

    def _half_width(self, cell: Cell) -> float:
        local = local_of(cell)
        return half_width(*ratio_of(cell, local, self._blocks(cell), self._blocks(local), self._experiment.seed))

    def _blocks(self, cell: Cell) -> Blocks:
        figures = [(sum(seconds), len(seconds), number) for number, seconds in self._seconds[cell].items()]
        sums, counts, numbers = np.array(figures, dtype=np.float64).T
        return Blocks(sums, counts, numbers)
