"""Sweeps of open-loop rates, from samples alone: the knee of each swept configuration, and the highest rate it held.

The knee is the rate at which the *power* is largest: goodput over mean latency (L. Kleinrock, "Power and Deterministic
Rules of Thumb for Probabilistic Problems in Computer Communications", ICC 1979). Below the knee, more load adds little
latency; above it, more load adds much latency and little goodput. For a single server with random arrivals and service
times (M/M/1) the knee is at half the capacity.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from experiments.spec.experiment import Cell
from experiments.spec.load import Load
from experiments.store.intervals import Blocks, product_interval, requests_of, seconds_of
from experiments.store.loaded import SERVED, overloaded
from experiments.store.samples import cell_of
from experiments.store.statistics import groups_of

RATES = 3
"""Least rates of a sweep."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A cell under an open-loop load."""

    cell: Cell
    figures: Mapping[str, Any]
    """Its row of the summary."""
    late: float
    """Seconds after their intended start within which 99 % of its requests began."""
    power: float
    """Goodput over mean latency, in answers per second squared."""

    @property
    def rate(self) -> float:
        """Requests per second, as asked."""
        return Load.parse(self.cell.load).rate

    @property
    def overloaded(self) -> bool:
        return overloaded(self.figures)

    @property
    def held(self) -> bool:
        """Whether the cell holds the rate: it is not overloaded, and answers nearly all of the offered rate."""
        return not self.overloaded and bool(self.figures["goodput"] >= SERVED * self.figures["offered"])


@dataclass(frozen=True)
class Sweep:
    """The same configuration at several rates, ascending."""

    configuration: Cell
    """A cell whose load has a kind and no rate."""
    cells: Sequence[Loaded]
    powers: Sequence[tuple[float, float, float]]
    """For each cell the ratio of its power to the knee's power, and the ratio's 95 % interval (NaN: too few rounds)."""

    @property
    def knee(self) -> Loaded:
        """The cell with the largest power. An overloaded cell counts only if all are overloaded, since its latency
        depends on how long the load lasted."""
        return _knee(self.cells)

    @property
    def highest(self) -> Loaded | None:
        """The highest rate that was held; None if all were too high."""
        return max((each for each in self.cells if each.held), key=lambda each: each.rate, default=None)

    @property
    def known(self) -> bool:
        """Whether there are intervals."""
        return all(low == low for _, low, _ in self.powers)

    @property
    def ties(self) -> list[Loaded]:
        """The other cells whose power cannot be told apart from the knee's power."""
        found = zip(self.cells, self.powers, strict=True)
        return [each for each, (_, low, high) in found if each is not self.knee and low <= 1 <= high]


def loads_of(measured: pd.DataFrame, rows: Sequence[Mapping[str, Any]]) -> list[Loaded]:
    """Every cell under an open-loop load, in the order of the summary's `rows`."""
    groups, found = groups_of(measured), []
    for row in rows:
        if (cell := cell_of(row)).load:
            late = float(groups[cell]["late_seconds"].quantile(0.99))
            found.append(Loaded(cell, row, late, row["goodput"] / row["mean"]))
    return found


def sweeps_of(measured: pd.DataFrame, loads: Sequence[Loaded], seed: int) -> list[Sweep]:
    """Each configuration with at least `RATES` rates, in the order of `loads`."""
    groups, found = groups_of(measured), dict[Cell, list[Loaded]]()
    for each in loads:
        found.setdefault(configuration(each.cell), []).append(each)
    swept = {key: sorted(cells, key=lambda each: each.rate) for key, cells in found.items() if len(cells) >= RATES}
    return [Sweep(key, cells, _powers(cells, groups, seed)) for key, cells in swept.items()]


def swept(cells: Iterable[Cell]) -> set[Cell]:
    """The cells among `cells` that are part of a sweep."""
    loaded = [cell for cell in cells if cell.load]
    counts = Counter(map(configuration, loaded))
    return {cell for cell in loaded if counts[configuration(cell)] >= RATES}


def configuration(cell: Cell) -> Cell:
    """The cell without its rate."""
    return replace(cell, load=Load.parse(cell.load).kind)


def _knee(cells: Sequence[Loaded]) -> Loaded:
    steady = [each for each in cells if not each.overloaded]
    return max(steady or cells, key=lambda each: each.power)


def _powers(
    cells: Sequence[Loaded], groups: Mapping[Cell, pd.DataFrame], seed: int
) -> list[tuple[float, float, float]]:
    knee = _knee(cells)
    below, found = _factors(groups[knee.cell]), []
    for each in cells:
        # One random stream per pair of cells: other cells do not change its interval.
        generator = np.random.default_rng([seed, zlib.crc32(f"{each.cell.name} {knee.cell.name}".encode())])
        low, high = (1.0, 1.0) if each is knee else product_interval(_factors(groups[each.cell]), below, generator)
        found.append((each.power / knee.power if knee.power else math.nan, low, high))
    return found


def _factors(group: pd.DataFrame) -> list[Blocks]:
    """Blocks of a cell whose means multiply to its power."""
    seconds = seconds_of(group)
    return [requests_of(group), replace(seconds, sums=seconds.counts, counts=seconds.sums)]
