"""From samples to a summary with a row per cell. The same samples and seed give the same numbers.

The interval of a ratio:
  - A ratio is the mean of a cell over the mean of another cell of the same experiment: its local model
    (`experiment.local_of`) or the same cell without a transport (`none_of`). Throughput is compared in the same way.
  - Requests of one block follow each other and share the machine's state, so they are not independent: whole blocks are
    resampled. A cell with fewer than `MIN_BLOCKS` blocks has no interval, and no other cell has one against it.
    Resampling single requests instead would give an interval that is too narrow.
  - The blocks of both cells are resampled `RESAMPLES` times, independently of each other. The interval is the
    percentile interval of the resampled ratios, with its percentiles moved outwards for the smaller number of blocks
    (*expanded percentile* interval, T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American
    Statistician 69(4), 2015): at five to ten blocks the plain 2.5 and 97.5 percentiles cover far less than 95 %.
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
from partitioning.strategy_table import MODES

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
"""For each block of a cell a numerator and a denominator, for example its seconds and its number of requests."""


def summarise(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per cell with `COLUMNS`; seconds for mean, std, median, p90 and p99. A value that cannot be had is NaN.

    `std` is the sample standard deviation (ddof=1). Percentiles interpolate linearly. `messages`, `payload_bytes`,
    `lookups` and `connects` are means per request. `wire_bytes` is the median, since traffic of other programs is in
    some samples. `compute_share` is compute seconds over seconds. `outside_seconds` is the mean of seconds less compute
    seconds: the time of partition and transport. It and `ratio_to_none` are NaN for a local model, which has no
    partition. `deviation` is the largest. `throughput` is requests per second, over the time from the first start to
    the last end of each block.
    """
    by_cell = [group for _, group in samples.groupby("cell", sort=False)]
    groups = {cell_of({name: group[name].iloc[0] for name in CELL_FIELDS}): group for group in by_cell}
    rows = [_row(cell, groups, seed) for cell in sorted(groups, key=_order)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def none_of(cell: Cell) -> Cell:
    """The same cell without a transport: direct calls instead of messages to nodes and to model servers.

    `none` has one codec, since it writes no bytes, and no repeats, since it loses no server.
    """
    if cell.mode == "whole":
        return local_of(cell)
    here = local_engine(cell.engine)
    return replace(cell, transport="none", codec=Cell.codec, repeats=Cell.repeats, engine=here)


def ratio_interval(above: Units, below: Units, generator: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of the ratio of two means (method: head of this file); NaN below `MIN_BLOCKS` blocks."""
    size = min(len(sums) for sums, _ in (above, below))
    if size < MIN_BLOCKS:
        return math.nan, math.nan
    tail = _tail(size)
    ratios = _resampled_means(above, generator) / _resampled_means(below, generator)
    low, high = np.quantile(ratios, [tail, 1 - tail])
    return float(low), float(high)


def seconds_of(group: pd.DataFrame) -> Units:
    """For each block: the seconds of its requests, and their number."""
    blocks = group.groupby("block")["seconds"]
    return np.asarray(blocks.sum(), dtype=np.float64), np.asarray(blocks.count(), dtype=np.float64)


def _requests_of(group: pd.DataFrame) -> Units:
    """For each block: its number of requests, and its duration in seconds; NaN if the samples have no start times."""
    blocks = group.assign(end=group["start"] + group["seconds"]).groupby("block")
    spans = blocks["end"].max() - blocks["start"].min()
    return np.asarray(blocks.size(), dtype=np.float64), np.asarray(spans, dtype=np.float64)


def _order(cell: Cell) -> tuple[Any, ...]:
    """Sort key: local models first, then the order of the specification's values; values that it lacks come last."""
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
    """Under the three `names`: the ratio of the means of two cells, and both ends of its interval."""
    found = (math.nan, math.nan, math.nan)
    if base in groups:
        above, below = units(groups[cell]), units(groups[base])
        ratio = mean_of(above) / mean_of(below)
        # One random stream per pair of cells: other cells of the experiment do not change its interval.
        generator = np.random.default_rng([seed, zlib.crc32(f"{cell.name} {base.name}".encode())])
        found = (ratio, *((ratio, ratio) if cell == base else ratio_interval(above, below, generator)))
    return dict(zip(names.split(), found, strict=True))


def mean_of(units: Units) -> float:
    """The mean over all blocks."""
    sums, counts = units
    return float(sums.sum() / counts.sum())


def _resampled_means(units: Units, generator: np.random.Generator) -> Floats:
    """Means of `RESAMPLES` resamples; each draws as many blocks as there are, with replacement."""
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
    """Quantile of Student's t, by its expansion about the normal quantile (Abramowitz and Stegun 26.7.5).

    Accurate to 0.3 % from four degrees of freedom on, the fewest with `MIN_BLOCKS`; too small below that.
    """
    z = standard.NormalDist().inv_cdf(level)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
