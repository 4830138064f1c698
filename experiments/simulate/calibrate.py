"""Makes simulated requests take as long as the measured ones: first requests that are alone, then closed loops.

In the flow `forward` servers acknowledge a message while they compute. How much of this work the measured seconds
include is not known: phases hide it behind the stages, or count it. So one factor scales the cost of all messages. In
the other flows nothing overlaps, and the steps add up to the measured seconds.

Concurrent requests slow each other by more than their shares of the cores explain: a thread that is ready waits for the
scheduler although a core is idle, or for the interpreter lock of its process. CPU seconds do not show this. If the run
has closed loops of several clients, the speed of the cores is fitted to the median of each loop. The scheduler is not
fair to each request either: the spread of the steps is fitted to the ratio of the 90th percentile to the median.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from experiments.simulate.draws import Floats
from experiments.simulate.engine import simulate
from experiments.simulate.fit import Fit, fit
from experiments.simulate.measured import Run
from experiments.simulate.resources import Contention
from experiments.simulate.topology import Layout, system_of

OVERLAPPING = "forward"
PRECISION = 1e-4
"""The precision with which a factor, a speed and a spread are found."""
MOST = 2.0
"""The largest factor."""
LEAST = 0.25
"""The smallest speed of the cores, as a share of the ideal one."""
WIDEST = 1.0
"""The largest spread."""
REQUESTS = 1000
"""Simulated requests of a closed loop. The first tenth of them does not count."""


@dataclass(frozen=True, eq=False)
class _InOrder:
    """The measured requests one after the other."""

    rows: Floats

    def draw(self, rng: np.random.Generator, requests: int) -> Floats:
        return self.rows[np.arange(requests) % len(self.rows)]


def fitted(run: Run) -> Fit:
    """`fit`, calibrated. Raises `UsageError` if the run lacks a figure that is needed."""
    found = fit(run)
    if run.cell.flow == OVERLAPPING:
        target, free = float(run.requests["seconds"].mean()), found
        found = free.scaled(_root(lambda factor: alone(run, free.scaled(factor)) - target, 0.0, MOST))
    if run.closed_loops:
        found = _slowed(run, _uneven(run, found))  # the speed hardly changes percentiles relative to the medians
        found = replace(found, basis=f"{found.basis} {_told(found.contention)}")
    return found


def alone(run: Run, found: Fit) -> float:
    """Mean seconds of the measured requests, simulated one at a time."""
    system = replace(system_of(run, found, Layout()), draws=_InOrder(found.rows))
    return float(simulate(system, 1, len(found.rows), 0).seconds.mean())


def closed_loop(run: Run, found: Fit, clients: int) -> tuple[float, float]:
    """(median seconds of simulated requests of `clients` clients, ratio of the 90th percentile to the median)."""
    system = system_of(run, found, Layout(replicas=run.experiment.replicas))
    trace = simulate(system, clients, REQUESTS, 0, REQUESTS // 10)
    return _shape(trace.seconds[trace.lead :])


def _shape(seconds: Floats) -> tuple[float, float]:
    median, most = np.quantile(seconds, (0.5, 0.9))
    return float(median), float(most / median)


def _measured(requests: pd.DataFrame) -> tuple[float, float]:
    return _shape(requests["seconds"].to_numpy(dtype=np.float64))


def _slowed(run: Run, found: Fit) -> Fit:
    """The fit with the speed of the cores fitted to each closed loop, from few clients to many."""
    for clients, requests in run.closed_loops.items():
        found = _slowed_by(run, found, clients, _measured(requests)[0])
    return found


def _slowed_by(run: Run, found: Fit, clients: int, median: float) -> Fit:
    speeds = found.contention.speeds

    def at(share: float) -> Fit:
        return replace(found, contention=replace(found.contention, speeds=(*speeds, (float(clients), share))))

    return at(_root(lambda share: median - closed_loop(run, at(share), clients)[0], LEAST, 1.0))


def _uneven(run: Run, found: Fit) -> Fit:
    """The fit with the spread fitted to the closed loops on average."""
    measured = sum(_measured(requests)[1] for requests in run.closed_loops.values())

    def uneven(spread: float) -> Fit:
        return replace(found, contention=replace(found.contention, spread=spread))

    def more(spread: float) -> float:
        return sum(closed_loop(run, uneven(spread), clients)[1] for clients in run.closed_loops) - measured

    return uneven(_root(more, 0.0, WIDEST))


def _told(contention: Contention) -> str:
    points = ", ".join(f"{100 * share:.0f} % ({clients:.0f} clients)" for clients, share in contention.speeds[1:])
    speeds = f"Its closed loops run at {points} of the speed that equal shares of the cores would give"
    return f"{speeds}; steps beside others take {math.exp(contention.spread):.2f} times as long or as short."


def _root(rising: Callable[[float], float], low: float, high: float) -> float:
    """Where `rising` passes zero, or the nearer end."""
    rising = functools.cache(rising)  # Brent's method begins with both ends, too
    if rising(low) >= 0:
        return low
    return high if rising(high) <= 0 else float(brentq(rising, low, high, xtol=PRECISION))
