"""Ratios of the seconds of two ways, by size, with intervals over the rounds.

In a round both ways have the same echo process, and each round has a new one: how a process places its memory and its
threads shifts all of its echoes, up to a third for a small message. So the rounds, not the echoes, are independent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from experiments.reports.markdown import ABSENT, number
from experiments.store.intervals import LEVEL, MIN_BLOCKS


@dataclass(frozen=True)
class Ratio:
    """The geometric mean of the rounds' ratios of medians, and its 95 % interval (NaN below `MIN_BLOCKS` rounds)."""

    value: float
    low: float
    high: float

    def text(self, digits: int) -> str:
        """`"1.12 (1.05 to 1.20)"`"""
        value, low, high = (number(part, digits) for part in (self.value, self.low, self.high))
        return value if low == ABSENT else f"{value} ({low} to {high})"


def ratios(samples: pd.DataFrame, one: str, other: str) -> Mapping[int, Ratio]:
    """Size in bytes -> the seconds of the way `one` as a multiple of those of `other`, where both were measured."""
    own = samples[samples["way"].isin([one, other])]
    medians = own.groupby(["bytes", "round", "way"])["seconds"].median().unstack("way")
    if not {one, other} <= {*medians.columns}:
        return {}
    found = (medians[one] / medians[other]).dropna()
    return {int(str(size)): _ratio(np.log(group.to_numpy())) for size, group in found.groupby("bytes")}


def _ratio(logs: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Ratio:
    count, mean = len(logs), float(logs.mean())
    half = math.nan
    if count >= MIN_BLOCKS:  # Student's t interval
        half = float(stdtrit(count - 1, (1 + LEVEL) / 2) * logs.std(ddof=1) / math.sqrt(count))
    return Ratio(math.exp(mean), math.exp(mean - half), math.exp(mean + half))
