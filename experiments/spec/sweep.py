"""The rates of `--load poisson:auto`: fixed fractions of the capacity that a calibration finds for each cell.

Before an experiment is measured, each of its cells with such a load runs in a closed loop. The requests in flight are
doubled until this no longer raises the rate of answers. That rate is the cell's capacity. Ordinary cells then replace
the cell, one for each fraction of the capacity.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from experiments.spec.experiment import Cell, Experiment
from experiments.spec.load import AUTO, IN_FLIGHT, LEAST, MOST, Load, rates
from experiments.spec.schedule import largest

FRACTIONS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)
"""The rates of a sweep, as fractions of the capacity. Kleinrock's power is largest at half the capacity or above it.
The last rate is an overload: a cell that answers 90 % of the offered rate counts as holding it
(`experiments.store.loaded.SERVED`)."""
ROUNDS = 5
"""Least rounds for an interval (`experiments.store.intervals.MIN_BLOCKS`)."""
GAIN = 1.1
"""Factor by which the rate of answers must grow when the requests in flight are doubled; otherwise doubling ends."""


SHARED = ("load", "label", "trace")
"""Settings on which the capacity of a cell does not depend."""


@dataclass(frozen=True)
class Capacity:
    """The rate of answers in a closed loop with enough requests in flight to keep the servers busy."""

    per_second: float
    in_flight: int
    requests: int
    """The number of timed requests, sent with `in_flight` of them in flight."""

    def rates(self) -> list[float]:
        """The rates of a sweep in requests per second, ascending, with three significant digits."""
        exact = (min(max(LEAST, fraction * self.per_second), MOST) for fraction in FRACTIONS)
        return list(dict.fromkeys(float(f"{rate:.3g}") for rate in exact))


def asked(experiment: Experiment) -> list[Cell]:
    """The cells whose rates a calibration has to find."""
    return [cell for cell in experiment.cells if cell.load in AUTO]


def closed(cell: Cell, in_flight: int) -> Cell:
    """The cell in a closed loop. Cells that differ only in `SHARED` have the same one."""
    return replace(cell, **{name: getattr(Cell, name) for name in SHARED}, concurrency=in_flight)


def levels(cell: Cell, replicas: int) -> list[int]:
    """Numbers of requests in flight: first two for each server (at least 4), then twice the previous number each."""
    least = min(IN_FLIGHT, max(4, 2 * cell.servers * replicas))
    return [least << doubled for doubled in range(9) if least << doubled <= IN_FLIGHT]


def expanded(experiment: Experiment, capacities: Mapping[Cell, Capacity]) -> Experiment:
    """The experiment with known rates; `capacities` has the capacity of each cell of `asked`."""
    cells = [each for cell in experiment.cells for each in _at_rates(cell, capacities)]
    return replace(experiment, cells=tuple(dict.fromkeys(cells)))


def announced(experiment: Experiment) -> str:
    """How long the requests of an experiment with known rates take, and whether there are rounds for intervals."""
    known = rates(experiment.cells)
    seconds = sum(experiment.runs / rate for rate in known)
    text = f"{len(known)} cells under load: {experiment.runs} requests of each take about {seconds:.0f} s"
    enough = (ROUNDS - 1) * largest([cell.concurrency for cell in experiment.cells], known) + 1
    if experiment.runs >= enough or experiment.turns == "blocked":
        return text
    return f"{text}; intervals need {ROUNDS} rounds, which --runs {enough} gives"


def record(cell: Cell, capacity: Capacity) -> dict[str, Any]:
    """The record of a calibration in environment.json."""
    return {
        "asked": cell.load,
        "cell": cell.name,
        "capacity": capacity.per_second,
        "in_flight": capacity.in_flight,
        "requests": capacity.requests,
        "fractions": list(FRACTIONS),
        "cells": [each.name for each in _at_rates(cell, {cell: capacity})],
    }


def _at_rates(cell: Cell, capacities: Mapping[Cell, Capacity]) -> list[Cell]:
    if cell.load not in AUTO:
        return [cell]
    return [replace(cell, load=str(Load(AUTO[cell.load], rate))) for rate in capacities[cell].rates()]
