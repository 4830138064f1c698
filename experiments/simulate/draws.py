"""The seconds of the steps of each request: a row for each request, a column for each step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Draws(Protocol):
    """Where the seconds come from."""

    def draw(self, rng: np.random.Generator, requests: int) -> Floats:
        """Shape (requests, columns)."""
        ...


@dataclass(frozen=True, eq=False)
class Measured:
    """Whole rows of a measured run, drawn with replacement, since the steps of one request are correlated."""

    rows: Floats
    """Shape (measured requests, columns)."""

    def draw(self, rng: np.random.Generator, requests: int) -> Floats:
        return self.rows[rng.integers(len(self.rows), size=requests)]
