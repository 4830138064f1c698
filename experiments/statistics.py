"""From samples to a row per cell. Pure: the same samples and seed give the same numbers.

How the interval of a ratio is found:
  - A ratio is the mean of a cell over the mean of its local cell (`specification.local_of`), both of one experiment.
  - Samples of one block were taken one after the other and share the machine's mood, so they are not independent.
    Where both cells have at least `MIN_BLOCKS` blocks, whole blocks are resampled; otherwise samples are, and the
    column `resampled` says which. Fewer blocks than that would make the interval a matter of luck.
  - Both cells are resampled, independently, `RESAMPLES` times. The interval is a percentile interval of the
    resampled ratios; its two percentiles are moved outwards for a small number of units (the *expanded percentile*
    interval of T. Hesterberg, "What Teachers Should Know About the Bootstrap", The American Statistician 69(4),
    2015): the plain 2.5 and 97.5 percentiles cover far less than 95 % at five to ten blocks.
"""

from __future__ import annotations

import math
import statistics as standard
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

import transports
from experiments.samples import EXTRA_FIELDS, NAMING_FIELDS, cell_of
from experiments.specification import CELL_FIELDS, ENGINES, Cell, engine_here, local_of
from partitioning.strategies import MODES

__all__ = ["COLUMNS", "none_of", "ratio_interval", "student_quantile", "summarise"]

RESAMPLES = 10_000
MIN_BLOCKS = 5
LEVEL = 0.95
CHUNK = 2_000_000  # indices drawn at a time: bounds the memory of a bootstrap over many samples

COLUMNS = (
    *("cell", *NAMING_FIELDS, "n", "mean", "std", "median", "p90", "p99"),
    *("ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none"),
    *(*EXTRA_FIELDS, "resampled", "messages", "payload_bytes", "wire_bytes", "lookups", "connects"),
    *("compute_share", "deviation"),
    *("throughput", "throughput_to_local"),
)

Floats = NDArray[np.float64]
Units = tuple[Floats, Floats]
"""What is resampled: the sum of the seconds in each unit, and the number of samples in it."""


def summarise(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per cell with `COLUMNS`; seconds for mean, std, median, p90 and p99.

    `std` is the sample standard deviation (ddof=1), NaN for one sample. Percentiles interpolate linearly.
    `ratio_to_none` is to `none_of` the cell. `messages`, `payload_bytes`, `lookups` and `connects` are
    means per request; `wire_bytes` is the median, since what others sent meanwhile is in some; `compute_share` is
    compute seconds over seconds, `deviation` is the largest seen. `throughput` is requests per second, over the time
    from the first start to the last end of each block.
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
    here = engine_here(cell.engine)
    return replace(cell, transport="none", codec=Cell.codec, repeats=Cell.repeats, engine=here)


def ratio_interval(cell: pd.DataFrame, base: pd.DataFrame, generator: np.random.Generator) -> tuple[float, float]:
    """The 95 % interval of mean(cell) / mean(base), as the head of this file says; NaN for fewer than two units."""
    units = [_units(frame, _by_block(cell, base)) for frame in (cell, base)]
    size = min(len(counts) for _, counts in units)
    if size < 2:
        return math.nan, math.nan
    above, below = (_resampled_means(unit, generator) for unit in units)
    tail = _tail(size)
    low, high = np.quantile(above / below, [tail, 1 - tail])
    return float(low), float(high)


def _cell(group: pd.DataFrame) -> Cell:
    return cell_of({name: group[name].iloc[0] for name in CELL_FIELDS})


def _order(cell: Cell) -> tuple[Any, ...]:
    """Local models first, then as the specification lists its values; a value that it no longer has comes last."""
    places = ((MODES, cell.mode), (ENGINES, cell.engine), (tuple(transports.NAMES), cell.transport))
    mode, engine, transport = (valid.index(value) if value in valid else len(valid) for valid, value in places)
    return (cell != local_of(cell), mode, engine, cell.batch, cell.servers, transport, cell.codec, cell.name)


def _row(cell: Cell, groups: Mapping[Cell, pd.DataFrame], seed: int) -> dict[str, Any]:
    group, local, none = groups[cell], groups.get(local_of(cell)), groups.get(none_of(cell))
    row = {"cell": cell.name} | {name: getattr(cell, name) for name in CELL_FIELDS} | _described(group)
    row["ratio_to_none"] = row["mean"] / none["seconds"].mean() if none is not None else math.nan
    row["throughput"] = _throughput(group)
    row["throughput_to_local"] = row["throughput"] / _throughput(local) if local is not None else math.nan
    row |= _ratio(cell, group, local, seed)
    return row


def _throughput(group: pd.DataFrame) -> float:
    """Requests per second while the cell had its turn; NaN where the samples do not say when they began."""
    blocks = group.assign(end=group["start"] + group["seconds"]).groupby("block")
    spans = blocks["end"].max() - blocks["start"].min()
    return float(len(group) / spans.sum()) if spans.notna().all() else math.nan


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


def _ratio(cell: Cell, group: pd.DataFrame, local: pd.DataFrame | None, seed: int) -> dict[str, Any]:
    if local is None:
        return {"ratio_to_local": math.nan, "ratio_low": math.nan, "ratio_high": math.nan, "resampled": ""}
    if cell == local_of(cell):
        return {"ratio_to_local": 1.0, "ratio_low": 1.0, "ratio_high": 1.0, "resampled": ""}
    # A stream of its own for each cell: what else was measured does not change its interval.
    low, high = ratio_interval(group, local, np.random.default_rng([seed, zlib.crc32(cell.name.encode())]))
    kind = "blocks" if _by_block(group, local) else "samples"
    ratio = group["seconds"].mean() / local["seconds"].mean()
    return {"ratio_to_local": ratio, "ratio_low": low, "ratio_high": high, "resampled": kind}


def _by_block(*groups: pd.DataFrame) -> bool:
    return all(group["block"].nunique() >= MIN_BLOCKS for group in groups)


def _units(group: pd.DataFrame, by_block: bool) -> Units:
    if by_block:
        blocks = group.groupby("block")["seconds"]
        return np.asarray(blocks.sum(), dtype=np.float64), np.asarray(blocks.count(), dtype=np.float64)
    return group["seconds"].to_numpy(dtype=np.float64), np.ones(len(group))


def _resampled_means(units: Units, generator: np.random.Generator) -> Floats:
    """Means of `RESAMPLES` resamples, each of as many units as there are, drawn with replacement."""
    sums, counts = units
    rows = max(1, CHUNK // len(sums))
    parts = []
    for start in range(0, RESAMPLES, rows):
        drawn = generator.integers(len(sums), size=(min(rows, RESAMPLES - start), len(sums)))
        parts.append(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1))
    return np.concatenate(parts)


def _tail(size: int) -> float:
    """The lower percentile for `size` units: Hesterberg's Phi(-sqrt(n / (n - 1)) t), never below one resample."""
    expanded = math.sqrt(size / (size - 1)) * student_quantile(1 - (1 - LEVEL) / 2, size - 1)
    return max(standard.NormalDist().cdf(-expanded), 1 / RESAMPLES)


def student_quantile(level: float, freedom: int) -> float:
    """Quantile of Student's t, by its expansion about the normal one (Abramowitz and Stegun 26.7.5).

    Within 0.3 % from four degrees of freedom on; below that it is too small, and an interval from two or three samples
    is worth as little as that says.
    """
    z = standard.NormalDist().inv_cdf(level)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, 1))
