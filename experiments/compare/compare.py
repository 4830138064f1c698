"""Finds the cells of two runs that differ, by how much, and with what confidence.

The compared figure is a cell's x / Local, its ratio to the local model of the same run, since seconds of two runs also
differ with the state of the machine. Within a run, cell and local model are paired by round (`intervals.log_ratio`).
The two runs are independent of each other. The change B / A of x / Local has Welch's t interval of its logarithm: B. L.
Welch, "The Generalization of 'Student's' Problem when Several Different Population Variances are Involved", Biometrika
34, 1947. The p value of each cell comes from the same t statistic and is corrected for the number of cells by Holm's
method.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.special import stdtr, stdtrit

from experiments.spec.experiment import Cell, local_of
from experiments.store.intervals import LEVEL, LogRatio, log_ratio, seconds_of
from experiments.store.statistics import groups_of

ALPHA = 1 - LEVEL
"""A cell differs if its corrected p value is below this."""
FASTER, SLOWER, SAME, TOO_FEW = "faster", "slower", "no difference beyond noise", "too few rounds"


@dataclass(frozen=True)
class Change:
    """A cell in both runs; pairs are (A, B). An unknown value is NaN."""

    cell: Cell
    means: tuple[float, float]
    """Seconds of a request."""
    ratios: tuple[float, float]
    """x / Local."""
    rounds: tuple[int, int]
    """Rounds with both the cell and its local model; blocks in samples without rounds."""
    change: float
    """x / Local in B over x / Local in A."""
    low: float
    high: float
    """The 95 % interval of `change`."""
    p: float
    corrected: float = math.nan
    """`p`, corrected by Holm's method."""

    @property
    def verdict(self) -> str:
        if math.isnan(self.corrected):
            return TOO_FEW
        return SAME if self.corrected >= ALPHA else SLOWER if self.change > 1 else FASTER

    @property
    def differs(self) -> bool:
        return self.verdict in (FASTER, SLOWER)

    def slower_by_more_than(self, percent: float) -> bool:
        """Whether the verdict is "slower" and the whole interval is above this percentage."""
        return self.verdict == SLOWER and self.low > 1 + percent / 100


@dataclass(frozen=True)
class Comparison:
    """`changes`: cells in both runs, most changed first; cells with too few rounds for a verdict come last."""

    changes: tuple[Change, ...]
    locals: Mapping[Cell, tuple[float, float]]
    """Local models in both runs -> their mean seconds in A and in B, which show how alike the machines were."""
    only: tuple[tuple[Cell, ...], tuple[Cell, ...]]
    """Cells in A alone, and in B alone, local models left out."""


def compare(a: pd.DataFrame, b: pd.DataFrame, seeds: tuple[int, int] = (0, 0)) -> Comparison:
    """Compare the samples of two runs. `seeds`: of each run's bootstrap."""
    groups = groups_of(a), groups_of(b)
    both = [cell for cell in groups[0] if cell in groups[1]]
    changes = [_change(cell, groups, seeds) for cell in both if cell != local_of(cell)]
    corrected = holm([each.p for each in changes])
    changes = [replace(each, corrected=p) for each, p in zip(changes, corrected, strict=True)]
    here, there = (
        tuple(cell for cell in one if cell not in other and cell != local_of(cell))
        for one, other in (groups, groups[::-1])
    )
    means = {cell: _means(cell, groups) for cell in both if cell == local_of(cell)}
    return Comparison(tuple(sorted(changes, key=_order)), means, (here, there))


def holm(values: Sequence[float]) -> list[float]:
    """p values corrected for their number, so that the chance of even one false "differs" stays at the level.

    The method steps down: the smallest of m values is multiplied by m, the next one by m - 1, and so on, each at least
    the one before it and at most 1. It also holds for dependent tests, such as those of cells with one local model.
    NaN is no test and stays NaN. S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian
    Journal of Statistics 6(2), 1979.
    """
    places = sorted((place for place, p in enumerate(values) if not math.isnan(p)), key=lambda place: values[place])
    corrected = [math.nan] * len(values)
    largest = 0.0
    for rank, place in enumerate(places):
        largest = max(largest, min(1.0, (len(places) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def welch(a: LogRatio, b: LogRatio) -> tuple[float, float, float, float]:
    """The ratio exp(b - a), both ends of its 95 % interval, and the p value of "there is no change".

    NaN where either lacks its standard error.
    """
    change, variances = b.value - a.value, (a.error**2, b.error**2)
    total = sum(variances)
    if math.isnan(total):
        return math.exp(change), math.nan, math.nan, math.nan
    if total == 0:
        return math.exp(change), math.exp(change), math.exp(change), float(change == 0)
    freedom = total**2 / sum(part**2 / (each.size - 1) for part, each in zip(variances, (a, b), strict=True))
    width = float(stdtrit(freedom, (1 + LEVEL) / 2)) * math.sqrt(total)
    p = 2 * float(stdtr(freedom, -abs(change) / math.sqrt(total)))
    return math.exp(change), math.exp(change - width), math.exp(change + width), p


def _change(
    cell: Cell, groups: tuple[Mapping[Cell, pd.DataFrame], Mapping[Cell, pd.DataFrame]], seeds: tuple[int, int]
) -> Change:
    a, b = (_to_local(cell, group, seed) for group, seed in zip(groups, seeds, strict=True))
    ratios = math.exp(a.value), math.exp(b.value)
    return Change(cell, _means(cell, groups), ratios, (a.size, b.size), *welch(a, b))


def _to_local(cell: Cell, groups: Mapping[Cell, pd.DataFrame], seed: int) -> LogRatio:
    """The logarithm of x / Local; NaN if the local model was not timed, as in a run that ended early."""
    local = local_of(cell)
    if local not in groups:
        return LogRatio(math.nan, math.nan, 0)
    # One random stream per cell: other cells do not change its result.
    generator = np.random.default_rng([seed, zlib.crc32(cell.name.encode())])
    return log_ratio(seconds_of(groups[cell]), seconds_of(groups[local]), generator)


def _means(cell: Cell, groups: tuple[Mapping[Cell, pd.DataFrame], ...]) -> tuple[float, float]:
    a, b = (float(group[cell]["seconds"].mean()) for group in groups)
    return a, b


def _order(change: Change) -> tuple[bool, float, str]:
    judged = not math.isnan(change.corrected)
    return (not judged, -abs(math.log(change.change)) if judged else 0.0, change.cell.name)
