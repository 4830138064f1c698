"""Makes a request that is alone take as long in the simulation as it was measured.

In the flow `forward` servers acknowledge a message while they compute. How much of that the measured seconds already
have is not known: phases hide it behind the stages, or count it. So the cost of all messages is scaled by one factor.
In the other flows nothing overlaps, and the steps add up to what was measured.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from experiments.simulate.draws import Floats
from experiments.simulate.engine import simulate
from experiments.simulate.fit import Fit, fit
from experiments.simulate.measured import Run
from experiments.simulate.topology import Layout, system_of

OVERLAPPING = "forward"
HALVINGS = 12
MOST = 2.0
"""The largest factor."""


@dataclass(frozen=True, eq=False)
class _InOrder:
    """The measured requests one after the other."""

    rows: Floats

    def draw(self, rng: np.random.Generator, requests: int) -> Floats:
        return self.rows[np.arange(requests) % len(self.rows)]


def fitted(run: Run) -> Fit:
    """`fit`, calibrated. Raises `UsageError` if the run lacks a figure that is needed."""
    found = fit(run)
    if run.cell.flow != OVERLAPPING:
        return found
    target, low, high = float(run.requests["seconds"].mean()), 0.0, MOST
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if alone(run, found.scaled(middle)) > target:
            high = middle
        else:
            low = middle
    return found.scaled((low + high) / 2)


def alone(run: Run, found: Fit) -> float:
    """Mean seconds of the measured requests, simulated one at a time."""
    system = replace(system_of(run, found, Layout()), draws=_InOrder(found.rows))
    return float(simulate(system, 1, len(found.rows), 0).seconds.mean())
