"""From samples to a row per cell. Pure: the same samples and seed give the same numbers.

How the interval of a ratio is found:
  - A ratio is the mean of a cell over that of another of the same experiment: its local one (`specification.local_of`)
    or that without a wire (`none_of`); or its requests per second over those of its local one.
  - Samples of one block were taken one after the other and share the machine's mood, so they are not independent:
    whole blocks are resampled. A cell with fewer than `MIN_BLOCKS` has no interval, nor has a ratio to such a cell. To
    resample its single requests instead would promise too much (as all that is known of the order `blocked`), and two
    or three blocks are a matter of luck.
  - Both cells are resampled, independently, `RESAMPLES` times. The interval is a percentile interval of the
    resampled ratios; its two percentiles are moved outwards for the number of blocks of the cell that has fewer (the
    *expanded percentile* interval of T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
    Statistician 69(4), 2015): the plain 2.5 and 97.5 percentiles cover far less than 95 % at five to ten blocks.
"""

from __future__ import annotations

import math
import statistics as standard
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import transports
from experiments.spec.experiment import CELL_FIELDS, Cell, local_of
from experiments.store.samples import EXTRA_FIELDS, NAMING_FIELDS, cell_of
from partitioning.engine_table import ENGINES, local_engine
from partitioning.strategies import MODES

RESAMPLES = 10_000
MIN_BLOCKS = 5
LEVEL = 0.95
CHUNK = 2_000_000  # indices drawn at a time: bounds the memory of a bootstrap over many blocks

COLUMNS = (
    *("cell", *NAMING_FIELDS, "n", "mean", "std", "median", "p90", "p99"),
    *("ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none", "none_low", "none_high"),
    *(*EXTRA_FIELDS, "messages", "payload_bytes", "wire_bytes", "lookups", "connects"),
    *("compute_share", "outside_seconds", "deviation"),
    *("throughput", "throughput_to_local", "throughput_low", "throughput_high"),
)

Floats = NDArray[np.float64]
Units = tuple[Floats, Floats]
"""What is resampled, of each block of a cell: a sum, and what it is divided by. (Seconds and requests make a mean.)"""


def summarise(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per cell with `COLUMNS`; seconds for mean, std, median, p90 and p99.

    `std` is the sample standard deviation (ddof=1), NaN for one sample. Percentiles interpolate linearly.
    `ratio_to_none` is to `none_of` the cell, NaN of a local model, which has no partition. `messages`, `payload_bytes`,
    `lookups` and `connects` are means per request; `wire_bytes` is the median, since what others sent meanwhile is in
    some; `compute_share` is compute seconds over seconds; `outside_seconds` is the mean of seconds less compute
    seconds, which partition and transport took, NaN of a local model, which has neither. `deviation` is the largest
    seen. `throughput` is requests per second, over the time from the first start to the last end of each block.
    What has no counterpart in the samples is NaN.
    """
    groups = {_cell(group): group for _, group in samples.groupby("cell", sort=False)}
    rows = [_row(cell, groups, seed) for cell in sorted(groups, key=_order)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def none_of(cell: Cell) -> Cell:
    """The cell that differs from `cell` only in that no wire is crossed, neither to nodes nor to model servers.

    `none` writes no bytes, so that it has one codec; and it loses nobody, so that nothing is repeated.
    """
    if cell.mode == "whole":
        return local_of(cell)
    here = local_engine(cell.engine)
    return replace(cell, transport="none", codec=Cell.codec, repeats=Cell.repeats, engine=here)


def ratio_interval(above: Units, below: Units, generator: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the ratio of two means, as the head of this file says; NaN for fewer than `MIN_BLOCKS`."""
    size = min(len(sums) for sums, _ in (above, below))
    if size < MIN_BLOCKS:
        return math.nan, math.nan
    tail = _tail(size)
    ratios = _resampled_means(above, generator) / _resampled_means(below, generator)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def seconds_of(group: pd.DataFrame) -> Units:
    """Of each block: the seconds of its requests, and their number."""
    blocks = group.groupby("block")["seconds"]
    return np.asarray(blocks.sum(), dtype=np.float64), np.asarray(blocks.count(), dtype=np.float64)


def _requests_of(group: pd.DataFrame) -> Units:
    """Of each block: its requests, and the seconds of its turn; NaN where the samples do not say when they began."""
    blocks = group.assign(end=group["start"] + group["seconds"]).groupby("block")
    spans = blocks["end"].max() - blocks["start"].min()
    return np.asarray(blocks.size(), dtype=np.float64), np.asarray(spans, dtype=np.float64)


def _cell(group: pd.DataFrame) -> Cell:
    return cell_of({name: group[name].iloc[0] for name in CELL_FIELDS})


def _order(cell: Cell) -> tuple[Any, ...]:
    """Local models first, then as the specification lists its values; a value that it no longer has comes last."""
    places = ((MODES, cell.mode), (tuple(ENGINES), cell.engine), (tuple(transports.NAMES), cell.transport))
    mode, engine, transport = (valid.index(value) if value in valid else len(valid) for valid, value in places)
    return (cell != local_of(cell), mode, engine, cell.batch, cell.servers, transport, cell.codec, cell.name)


def _row(cell: Cell, groups: Mapping[Cell, pd.DataFrame], seed: int) -> dict[str, Any]:
    group, local = groups[cell], local_of(cell)
    row = {"cell": cell.name} | {name: getattr(cell, name) for name in CELL_FIELDS} | _described(group)
    row["throughput"] = mean_of(_requests_of(group))
    row |= _ratio("ratio_to_local ratio_low ratio_high", cell, local, groups, seconds_of, seed)
    row |= _ratio("throughput_to_local throughput_low throughput_high", cell, local, groups, _requests_of, seed)
    if cell != local:
        row |= _ratio("ratio_to_none none_low none_high", cell, none_of(cell), groups, seconds_of, seed)
        row["outside_seconds"] = (group["seconds"] - group["compute_seconds"]).mean(skipna=False)
    return row


def _described(group: pd.DataFrame) -> dict[str, Any]:
    seconds = group["seconds"].to_numpy()
    median, p90, p99 = np.quantile(seconds, [0.5, 0.9, 0.99])
    costs = {name: group[name].mean() for name in ("messages", "payload_bytes", "lookups", "connects")}
    return costs | {
        "n": len(seconds),
        "mean": seconds.mean(),
        "std": seconds.std(ddof=1) if len(seconds) > 1 else math.nan,
        "median": median,
        "p90": p90,
        "p99": p99,
        "wire_bytes": group["wire_bytes"].median(),
        "compute_share": group["compute_seconds"].sum(skipna=False) / seconds.sum(),
        "deviation": group["deviation"].max(),
    }


def _ratio(
    names: str,
    cell: Cell,
    base: Cell,
    groups: Mapping[Cell, pd.DataFrame],
    units: Callable[[pd.DataFrame], Units],
    seed: int,
) -> dict[str, float]:
    """By the three `names`: the ratio of the means of two cells, and both ends of its interval."""
    found = (math.nan, math.nan, math.nan)
    if base in groups:
        above, below = units(groups[cell]), units(groups[base])
        ratio = mean_of(above) / mean_of(below)
        # A stream of its own for each pair of cells: what else was measured does not change its interval.
        generator = np.random.default_rng([seed, zlib.crc32(f"{cell.name} {base.name}".encode())])
        found = (ratio, *((ratio, ratio) if cell == base else ratio_interval(above, below, generator)))
    return dict(zip(names.split(), found, strict=True))


def mean_of(units: Units) -> float:
    """The mean over all blocks."""
    sums, counts = units
    return float(sums.sum() / counts.sum())


def _resampled_means(units: Units, generator: np.random.Generator) -> Floats:
    """Means of `RESAMPLES` resamples, each of as many blocks as there are, drawn with replacement."""
    sums, counts = units
    rows = max(1, CHUNK // len(sums))
    parts = []
    for start in range(0, RESAMPLES, rows):
        drawn = generator.integers(len(sums), size=(min(rows, RESAMPLES - start), len(sums)))
        parts.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(parts)


def _tail(size: int) -> float:
    """The lower percentile for `size` blocks: Hesterberg's Phi(-sqrt(n / (n - 1)) t), never below one resample."""
    expanded = math.sqrt(size / (size - 1)) * student_quantile(1 - (1 - LEVEL) / 2, size - 1)
    return max(standard.NormalDist().cdf(-expanded), 1 / RESAMPLES)


def student_quantile(level: float, freedom: int) -> float:
    """Quantile of Student's t, by its expansion about the normal one (Abramowitz and Stegun 26.7.5).

    Within 0.3 % from four degrees of freedom on, which is what `MIN_BLOCKS` leave; below that it is too small.
    """
    z = standard.NormalDist().inv_cdf(level)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
