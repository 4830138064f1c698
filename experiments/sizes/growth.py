"""How seconds grow with size: exponents, and fits of a fixed, a linear and a quadratic part."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

Points = Sequence[tuple[float, float]]
"""(size, seconds), both above zero."""
POWERS = (0, 1, 2)
NOTABLE, ROUNDING = 0.999, 1e-18
"""A further part must reduce the squared error to less than the share `NOTABLE`, and by more than `ROUNDING`."""


@dataclass(frozen=True)
class Curve:
    """seconds = fixed + linear * size + quadratic * size**2; all three are at least zero."""

    fixed: float
    linear: float
    quadratic: float

    def quadratic_share(self, size: float) -> float:
        """The quadratic share of the seconds at `size`, from 0 to 1."""
        return self.quadratic * size**2 / (self.fixed + self.linear * size + self.quadratic * size**2)


def exponent(points: Points) -> float:
    """The slope of the least-squares line through the logarithms of the points; NaN for fewer than two points."""
    if len(points) < 2:
        return math.nan
    x, y = (np.log([float(point[place]) for point in points]) for place in (0, 1))
    x -= x.mean()
    return float((x * y).sum() / (x * x).sum())


def fit(points: Points) -> Curve | None:
    """The curve with the smallest squared relative errors; `None` for fewer than four points.

    A negative part makes no physical sense: only combinations of parts whose fit has none are considered.
    """
    if len(points) <= len(POWERS):
        return None
    x, seconds = (np.array([float(point[place]) for point in points]) for place in (0, 1))
    best, least = Curve(0, 0, 0), math.inf
    for powers in (chosen for count in POWERS for chosen in combinations(POWERS, count + 1)):
        columns = np.stack([x**power / seconds for power in powers], axis=1)
        parts = np.linalg.lstsq(columns, np.ones_like(x))[0]
        error = float(((columns @ parts - 1) ** 2).sum())
        if (parts >= 0).all() and error < NOTABLE * least - ROUNDING:
            found = dict(zip(powers, map(float, parts), strict=True))
            best, least = Curve(*(found.get(power, 0.0) for power in POWERS)), error
    return best
