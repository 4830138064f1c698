"""The bandwidth and the delay at which another cut becomes the best. Imports no TensorFlow."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from partitioning.advice import GOALS, Advice, Candidate
from partitioning.cost_model import Placed
from partitioning.part_costs import Path

BANDWIDTHS = tuple(10 ** (exponent / 10) for exponent in range(40, 111))
"""Bits per second, from 10 kbit to 100 Gbit."""
DELAYS = tuple(10 ** (exponent / 10) for exponent in range(-50, 11))
"""Seconds of one way, from 10 us to 10 s."""


@dataclass(frozen=True)
class Change:
    """The value of a link's property at which another candidate becomes the best."""

    at: float
    then: Candidate


def changes(
    advice: Advice, goal: str, path: Path, name: str, values: Sequence[float]
) -> tuple[Change | None, Change | None]:
    """Where the best candidate changes, below and above the present value, if all links were like `path`.

    `name` is the property that varies (`delay` or `bandwidth`) within `values`, which ascend.
    """

    def best(value: float) -> Candidate:
        there = replace(path, **{name: value})
        order = slice(None) if goal == GOALS[0] else slice(None, None, -1)
        return min(advice.pool, key=lambda item: item.cost.over(there)[order])

    now, here = getattr(path, name), best(getattr(path, name)).placed
    found = []
    for side in ([value for value in reversed(values) if value < now], [value for value in values if value > now]):
        inside, change = now, None
        for value in side:
            if _kind(best(value).placed) != _kind(here):
                change = _bisected(inside, value, here, best)
                break
            inside = value
        found.append(change)
    return found[0], found[1]


def _bisected(inside: float, outside: float, here: Placed, best: Callable[[float], Candidate]) -> Change:
    for _ in range(30):
        middle = math.sqrt(inside * outside) if math.isfinite(inside) and inside > 0 else (inside + outside) / 2
        if not math.isfinite(middle):
            break
        if _kind(best(middle).placed) == _kind(here):
            inside = middle
        else:
            outside = middle
    return Change(outside, best(outside))


def _kind(placed: Placed) -> tuple[object, ...]:
    """The properties in which another best cut must differ: hosts or positions, not the transport."""
    return placed.hosts, placed.cuts
