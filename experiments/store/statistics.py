"""From samples to a summary with a row per cell. The same samples and seed give the same numbers.

A ratio is the mean of a cell over the mean of another cell of the same experiment: its local model
(`experiment.local_of`) or the same cell without a transport (`none_of`). Throughput is compared in the same way.
`intervals` says how the interval of a ratio is found.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from experiments.spec.experiment import CELL_FIELDS, Cell, local_of
from experiments.spec.groups import TRANSPORTS
from experiments.spec.settings import canonical
from experiments.store import loaded
from experiments.store.intervals import Blocks, ratio_interval, requests_of, seconds_of
from experiments.store.samples import EXTRA_FIELDS, NAMING_FIELDS, PACKING, cell_of
from partitioning.engine_table import ENGINES, local_engine
from partitioning.strategy_table import MODES

COLUMNS = (
    *("cell", *NAMING_FIELDS, "n", "mean", "std", "median", "p90", "p99"),
    *("ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none", "none_low", "none_high"),
    *(*EXTRA_FIELDS, "messages", "payload_bytes", "wire_bytes", "lookups", "connects"),
    *("compute_share", "outside_seconds", "deviation"),
    *("throughput", "throughput_to_local", "throughput_low", "throughput_high", "queue_seconds"),
    *("p95", *loaded.COLUMNS, *PACKING),
)


def summarise(samples: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per cell with `COLUMNS`; mean, std, median and percentiles are in seconds. An unknown value is NaN.

    `std` is the sample standard deviation (ddof=1). Percentiles interpolate linearly. `messages`, `payload_bytes`,
    `lookups`, `connects` and `queue_seconds` are means per request. `wire_bytes` is the median, since traffic of other
    programs is in some samples. `compute_share` is compute seconds over seconds. `outside_seconds` is the mean of
    seconds less compute seconds: the time of partition and transport. `outside_seconds` and `ratio_to_none` are NaN for
    a local model, which has no partition. `deviation` is the largest of all requests. `throughput` is requests per
    second, over the time from the first start to the last end of each block. Under an open-loop load it does not count
    requests that missed their time limit, and a block begins a mean gap before its first start; `loaded` describes the
    further columns of such a load. `growth` is the mean of the last third of each block's requests over the mean of the
    first third. Figures of packing are means, except for `cosine`, which is the smallest.
    """
    groups = groups_of(samples)
    rows = [_row(cell, groups, seed) for cell in sorted(groups, key=_order)]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def none_of(cell: Cell) -> Cell:
    """The same cell without a transport: direct calls instead of messages to nodes and to model servers.

    A cell over `none` has the default codec, since it writes no bytes, no repeats, since it loses no server, and
    neither hosts nor links.
    """
    if cell.mode == "whole":
        return local_of(cell)
    here = local_engine(cell.engine)
    without = {name: getattr(Cell, name) for name in ("codec", "repeats", "on", "link", "wire")}
    return replace(cell, transport="none", engine=here, **without)


def chain_of(cell: Cell) -> Cell:
    """The same partition in a chain of processes over plain sockets, without nodes."""
    return canonical(replace(cell, transport="sockets"))


def _order(cell: Cell) -> tuple[Any, ...]:
    """Sort key: local models first, then the order of the specification's values; unknown values come last."""
    places = ((MODES, cell.mode), (tuple(ENGINES), cell.engine), (tuple(TRANSPORTS), cell.transport))
    mode, engine, transport = (valid.index(value) if value in valid else len(valid) for valid, value in places)
    return (cell != local_of(cell), mode, engine, cell.batch, cell.servers, transport, cell.codec, cell.name)


def _row(cell: Cell, groups: Mapping[Cell, pd.DataFrame], seed: int) -> dict[str, Any]:
    group, local = groups[cell], local_of(cell)
    row = {"cell": cell.name} | {name: getattr(cell, name) for name in CELL_FIELDS} | _described(group)
    row["throughput"] = requests_of(group).mean
    row |= loaded.described(cell, group, row["throughput"])
    if cell.load and len((ends := loaded.thirds(group))[0].sums):
        grown = ratio_of(cell, replace(cell, load=""), *ends, seed)
        row |= dict(zip(("growth", "growth_low", "growth_high"), grown, strict=True))
    row |= _ratio("ratio_to_local ratio_low ratio_high", cell, local, groups, seconds_of, seed)
    row |= _ratio("throughput_to_local throughput_low throughput_high", cell, local, groups, requests_of, seed)
    if cell != local:
        row |= _ratio("ratio_to_none none_low none_high", cell, none_of(cell), groups, seconds_of, seed)
        row["outside_seconds"] = (group["seconds"] - group["compute_seconds"]).mean(skipna=False)
    return row


def _described(group: pd.DataFrame) -> dict[str, Any]:
    seconds = group["seconds"].to_numpy()
    median, p90, p95, p99 = np.quantile(seconds, [0.5, 0.9, 0.95, 0.99])
    costs = {name: group[name].mean() for name in ("messages", "payload_bytes", "lookups", "connects")}
    return costs | {
        "n": len(seconds),
        "mean": seconds.mean(),
        "std": seconds.std(ddof=1) if len(seconds) > 1 else math.nan,
        "median": median,
        "p90": p90,
        "p95": p95,
        "p99": p99,
        "wire_bytes": group["wire_bytes"].median(),
        "compute_share": group["compute_seconds"].sum(skipna=False) / seconds.sum(),
        "deviation": group["deviation"].max(),
        "queue_seconds": group.loc[group["missed"] == 0, "queue_seconds"].mean(skipna=False),
        **{name: group[name].mean() for name in PACKING},
        "cosine": group["cosine"].min(),
    }


def _ratio(
    names: str,
    cell: Cell,
    base: Cell,
    groups: Mapping[Cell, pd.DataFrame],
    units: Callable[[pd.DataFrame], Blocks],
    seed: int,
) -> dict[str, float]:
    """Under the three `names`: the ratio of the means of two cells, and both ends of its interval."""
    found = (math.nan, math.nan, math.nan)
    if base in groups:
        found = ratio_of(cell, base, units(groups[cell]), units(groups[base]), seed)
    return dict(zip(names.split(), found, strict=True))


def ratio_of(cell: Cell, base: Cell, above: Blocks, below: Blocks, seed: int) -> tuple[float, float, float]:
    """The ratio of the means of two cells, and both ends of its interval; 1 for a cell and itself."""
    ratio = above.mean / below.mean
    # One random stream per pair of cells: other cells of the experiment do not change its interval.
    generator = np.random.default_rng([seed, zlib.crc32(f"{cell.name} {base.name}".encode())])
    return (ratio, *((ratio, ratio) if cell == base else ratio_interval(above, below, generator)))


def twins(samples: pd.DataFrame, seed: int) -> list[tuple[Cell, Cell, tuple[float, float, float]]]:
    """Cells that differ only in their label: (cell, the first of them, their ratio with its interval)."""
    groups = groups_of(samples)
    first: dict[Cell, Cell] = {}
    found = []
    for cell in sorted(groups, key=_order):
        base = first.setdefault(replace(cell, label=""), cell)
        if base != cell:
            found.append((cell, base, ratio_of(cell, base, seconds_of(groups[cell]), seconds_of(groups[base]), seed)))
    return found


def drifts(samples: pd.DataFrame) -> dict[Cell, float]:
    """Local model -> how much longer the last third of its blocks took than the first third, over the first third.

    Local models with fewer than six blocks are left out.
    """
    found = {}
    for cell, group in groups_of(samples).items():
        means = group.groupby("block")["seconds"].mean().to_numpy()
        if cell == local_of(cell) and (third := len(means) // 3) >= 2:
            found[cell] = float(means[-third:].mean() / means[:third].mean() - 1)
    return found


def groups_of(samples: pd.DataFrame) -> dict[Cell, pd.DataFrame]:
    """The samples of each cell."""
    by_cell = [group for _, group in samples.groupby("cell", sort=False)]
    return {cell_of({name: group[name].iloc[0] for name in CELL_FIELDS}): group for group in by_cell}
