"""The figures of a simulated run: percentiles, rates, how much each resource was used, and which is used most."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from experiments.simulate.draws import Floats
from experiments.simulate.state import Trace
from experiments.store.loaded import GROWN

BATCHES = 20
FULL = 0.98
"""A resource that is in use for more than this share of the time counts as a cause of overload."""


@dataclass(frozen=True)
class Outcome:
    """One load on one system. Seconds are from the intended start to the answer."""

    requests: int
    """The number of counted requests."""
    mean: float
    mean_error: float
    """Standard error of the mean, by batch means."""
    p50: float
    p95: float
    p99: float
    offered: float
    """Requests per second that arrive."""
    goodput: float
    """Requests per second that are answered within the time limit, until the last answer."""
    missed_share: float
    growth: float
    """Mean of the last third of the requests over that of the first third."""
    used: Mapping[str, float]
    """Resource -> the share of its capacity that is in use."""

    @property
    def bottleneck(self) -> str:
        """The resource with the least capacity left: the first one that a higher load fills."""
        return max(self.used, key=lambda name: self.used[name], default="")

    @property
    def most_used(self) -> float:
        return self.used.get(self.bottleneck, 0.0)

    @property
    def overloaded(self) -> bool:
        """Whether more requests arrive than can be answered, so that latency grows without end."""
        return (self.growth >= GROWN and self.most_used >= FULL) or self.missed_share > 0.5


def outcome_of(trace: Trace, timeout: float = math.inf) -> Outcome:
    """The figures of the counted requests of `trace`. No latency exceeds `timeout`, when the client gives up."""
    starts, missed = trace.starts[trace.lead :], trace.missed[trace.lead :]
    seconds = np.minimum(trace.seconds[trace.lead :], timeout)
    p50, p95, p99 = np.quantile(seconds, [0.5, 0.95, 0.99])
    ends = (trace.starts + trace.seconds)[~trace.missed]
    came = starts[-1] - starts[0]
    lasted = max(starts[-1], ends.max(initial=0.0)) - starts[0]
    answered = int((ends > starts[0]).sum())
    return Outcome(
        requests=len(seconds),
        mean=float(seconds.mean()),
        mean_error=batch_error(seconds),
        p50=float(p50),
        p95=float(p95),
        p99=float(p99),
        offered=(len(seconds) - 1) / came if came else math.nan,
        goodput=answered / lasted if lasted else math.nan,
        missed_share=float(missed.mean()),
        growth=_growth(seconds),
        used={name: round(busy / there, 9) for name, (busy, there) in trace.used.items() if busy},
    )


def batch_error(values: Floats) -> float:
    """The standard error of the mean of correlated `values`, from the means of `BATCHES` batches; NaN for fewer values.

    Source: A. M. Law, "Simulation Modeling and Analysis", 5th edition, 2015, section 9.5.3.
    """
    if len(values) < BATCHES:
        return math.nan
    means = values[: len(values) // BATCHES * BATCHES].reshape(BATCHES, -1).mean(axis=1)
    return float(means.std(ddof=1) / math.sqrt(BATCHES))


def _growth(seconds: Floats) -> float:
    third = len(seconds) // 3
    return float(seconds[-third:].mean() / seconds[:third].mean()) if third else math.nan
