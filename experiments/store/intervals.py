"""95 % intervals of ratios of means.

  - Requests of one block follow each other and share the machine's state, so they are not independent: whole blocks are
    resampled, `RESAMPLES` times. Resampling single requests instead would give an interval that is too narrow.
  - In a round each cell has one block, so drift of the machine affects all cells of a round alike. Whole rounds are
    resampled: the ratio is paired by round. Its interval is Student's t interval of the logarithm of the ratio, with
    the standard error from the bootstrap (corrected by n / (n - 1)). Over recorded noise the interval covers 95 % from
    five rounds on.
  - Samples of earlier versions have no rounds. The blocks of both cells are resampled independently of each other, and
    the interval is the percentile interval of the resampled ratios, with percentiles moved outwards for few blocks
    (*expanded percentile* interval). Since percentiles of few blocks are bounded, this interval covers less: 93 % with
    five blocks.
  - Below `MIN_BLOCKS` rounds, or blocks of either cell, there is no interval.

Both intervals are described by T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
Statistician 69(4), 2015.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import ndtr, stdtrit

from experiments.spec.load import lead_in

RESAMPLES = 10_000
MIN_BLOCKS = 5
LEVEL = 0.95
CHUNK = 2_000_000  # indices drawn at a time: bounds the memory of a bootstrap over many blocks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Blocks:
    """The blocks of a cell: a numerator and a denominator of each, such as its seconds and its number of requests."""

    sums: Floats
    counts: Floats
    rounds: Floats | None = None
    """The round of each block, ascending; None in samples without rounds."""

    @property
    def mean(self) -> float:
        return float(self.sums.sum() / self.counts.sum())

    def take(self, places: npt.NDArray[np.intp]) -> Blocks:
        return Blocks(self.sums[places], self.counts[places])


def half_width(ratio: float, low: float, high: float) -> float:
    """The distance from a ratio to the farther end of its interval, over the ratio; NaN without an interval."""
    return max(high / ratio - 1, 1 - low / ratio)


def seconds_of(group: pd.DataFrame) -> Blocks:
    """The seconds of each block of a cell's samples, and its number of requests."""
    blocks = group.groupby(_key(group))["seconds"]
    return _blocks(blocks.sum(), blocks.count(), group)


def requests_of(group: pd.DataFrame) -> Blocks:
    """The answers of each block of a cell's samples, and its duration in seconds; NaN if starts are not recorded.

    Under an open-loop load a block begins one mean gap before its first start, so that it has one gap for each request,
    and ends with the last start or answer.
    """
    answer = 1 - group["missed"]
    blocks = group.assign(end=group["start"] + group["seconds"] * answer, answer=answer).groupby(_key(group))
    gap = lead_in(str(group["load"].iloc[0]))
    return _blocks(blocks["answer"].sum(), blocks["end"].max() - blocks["start"].min() + gap, group)


def in_rounds(samples: pd.DataFrame) -> bool:
    """Whether the samples were taken in rounds. Samples of earlier versions were not."""
    return bool(samples["round"].notna().all())


def _key(group: pd.DataFrame) -> str:
    return "round" if in_rounds(group) else "block"


def _blocks(sums: pd.Series[Any], counts: pd.Series[Any], group: pd.DataFrame) -> Blocks:
    rounds = np.asarray(sums.index, dtype=np.float64) if in_rounds(group) else None
    return Blocks(np.asarray(sums, dtype=np.float64), np.asarray(counts, dtype=np.float64), rounds)


@dataclass(frozen=True)
class LogRatio:
    """The natural logarithm of a ratio of means, from `size` blocks or common rounds."""

    value: float
    error: float
    """Standard error by the bootstrap, corrected by n / (n - 1); NaN below `MIN_BLOCKS`."""
    size: int


def log_ratio(above: Blocks, below: Blocks, generator: np.random.Generator) -> LogRatio:
    """The logarithm of `above.mean / below.mean`, and its standard error.

    With rounds, the ratio is paired by round, and only common rounds count. Without rounds, the blocks of `above` and
    `below` are resampled independently of each other. NaN without blocks or common rounds.
    """
    above, below, paired = _paired(above, below)
    size = min(len(above.sums), len(below.sums))
    value = math.log(above.mean / below.mean) if size else math.nan
    if size < MIN_BLOCKS:
        return LogRatio(value, math.nan, size)
    means, bases = _resampled_pair(above, below, paired, generator)
    return LogRatio(value, math.sqrt(size / (size - 1)) * float(np.log(means / bases).std()), size)


def ratio_interval(above: Blocks, below: Blocks, generator: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of `above.mean / below.mean`; NaN below `MIN_BLOCKS` blocks or common rounds."""
    above, below, paired = _paired(above, below)
    size = min(len(above.sums), len(below.sums))
    if size < MIN_BLOCKS:
        return math.nan, math.nan
    expanded = _expansion(size)
    means, bases = _resampled_pair(above, below, paired, generator)
    if paired:
        factor = math.exp(expanded * float(np.log(means / bases).std()))
        return above.mean / below.mean / factor, above.mean / below.mean * factor
    tail = max(float(ndtr(-expanded)), 1 / RESAMPLES)  # never below one resample
    low, high = np.quantile(means / bases, [tail, 1 - tail])
    return float(low), float(high)


def product_interval(
    above: Sequence[Blocks], below: Sequence[Blocks], generator: np.random.Generator
) -> tuple[float, float]:
    """The 95 % interval of the product of the means of `above` over that of the means of `below`, paired by round.

    NaN without rounds, below `MIN_BLOCKS` common rounds, and if the sum of any of their blocks is zero.
    """
    given = [(each, each.rounds) for each in (*above, *below) if each.rounds is not None]
    common = functools.reduce(np.intersect1d, [rounds for _, rounds in given], given[0][1] if given else np.array([]))
    cells = [each.take(np.isin(rounds, common).nonzero()[0]) for each, rounds in given]
    signs, size = [1] * len(above) + [-1] * len(below), len(common)
    if len(cells) < len(signs) or size < MIN_BLOCKS or not all(each.sums.all() for each in cells):
        return math.nan, math.nan
    drawn = _resampled_means(cells, generator)
    logs = sum(sign * np.log(means) for sign, means in zip(signs, drawn, strict=True))
    ratio = math.prod(each.mean**sign for sign, each in zip(signs, cells, strict=True))
    factor = math.exp(_expansion(size) * float(np.std(logs)))
    return ratio / factor, ratio * factor


def _expansion(size: int) -> float:
    """Half the width of an interval of a mean of `size` blocks, over the standard error by the bootstrap."""
    return math.sqrt(size / (size - 1)) * float(stdtrit(size - 1, (1 + LEVEL) / 2))


def _paired(above: Blocks, below: Blocks) -> tuple[Blocks, Blocks, bool]:
    """Both arguments, reduced to their common rounds if they have rounds; and whether they have rounds."""
    if above.rounds is None or below.rounds is None:
        return above, below, False
    _, here, there = np.intersect1d(above.rounds, below.rounds, return_indices=True)
    return above.take(here), below.take(there), True


def _resampled_pair(
    above: Blocks, below: Blocks, paired: bool, generator: np.random.Generator
) -> tuple[Floats, Floats]:
    """Means of resamples of both: of the same rounds if `paired`, else independent of each other."""
    if paired:
        means, bases = _resampled_means([above, below], generator)
    else:
        (means,), (bases,) = (_resampled_means([each], generator) for each in (above, below))
    return means, bases


def _resampled_means(cells: Sequence[Blocks], generator: np.random.Generator) -> list[Floats]:
    """For each cell, the means of `RESAMPLES` resamples. A resample draws the same blocks of all `cells`, with
    replacement."""
    size = len(cells[0].sums)
    rows = max(1, CHUNK // size)
    parts: list[list[Floats]] = [[] for _ in cells]
    for start in range(0, RESAMPLES, rows):
        drawn = generator.integers(size, size=(min(rows, RESAMPLES - start), size))
        for cell, means in zip(cells, parts, strict=True):
            means.append(cell.sums[drawn].sum(axis=1) / cell.counts[drawn].sum(axis=1))
    return [np.concatenate(means) for means in parts]
