"""Figures of cells under an open-loop load (`experiments.spec.load`): offered and answered rates, misses, overload.

In means and percentiles, the latency of a request that missed its time limit is the time after which the client gave
up: a lower bound. Rates of answers do not count such a request.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from experiments.spec.experiment import Cell
from experiments.spec.load import lead_in
from experiments.store.intervals import Blocks, in_rounds

COLUMNS = ("offered", "goodput", "missed_share", "late_seconds", "growth", "growth_low", "growth_high")
GROWN, SERVED = 1.25, 0.9
"""An overloaded cell has a `growth` of at least `GROWN`, and answers less than the share `SERVED` of the offered rate.
Below capacity, too, a queue grows a little at the begin of each block, but then nearly all of the offered rate is
answered."""


def described(cell: Cell, group: pd.DataFrame, goodput: float) -> dict[str, float]:
    """The `COLUMNS` of a cell except those of growth; NaN in a closed loop. `goodput` is in answers per second.

    `offered` is requests per second, over the time of each block until its last intended start.
    """
    if not cell.load:
        return dict.fromkeys(COLUMNS, math.nan)
    starts = group.groupby("block")["start"]
    lasted = (starts.max() - starts.min()).sum() + starts.ngroups * lead_in(cell.load)
    return {
        "offered": len(group) / lasted,
        "goodput": goodput,
        "missed_share": float(group["missed"].mean()),
        "late_seconds": float(group["late_seconds"].mean()),
    }


def thirds(group: pd.DataFrame) -> tuple[Blocks, Blocks]:
    """The seconds of the last and of the first third of the requests of each block, in the order of arrival.

    Blocks of fewer than three requests are left out.
    """
    found: list[tuple[float, float, int, float]] = []
    for number, block in group.groupby("round" if in_rounds(group) else "block"):
        seconds = block.sort_values("start")["seconds"].to_numpy()
        if third := len(seconds) // 3:
            found.append((seconds[-third:].sum(), seconds[:third].sum(), third, float(str(number))))
    last, first, counts, numbers = np.array(found, dtype=np.float64).reshape(-1, 4).T
    return Blocks(last, counts, numbers), Blocks(first, counts, numbers)


def overloaded(row: Mapping[str, Any]) -> bool:
    """Whether more requests arrive than are answered. `row` is a row of a summary.

    This is so if latency grows within blocks (beyond noise, if there are enough blocks for an interval) and the rate of
    answers is below the offered rate; or if most requests missed the time limit, beyond which latency cannot grow.
    """
    names = ("growth", "growth_low", "missed_share", "goodput", "offered")
    growth, low, missed, goodput, offered = (row.get(name, math.nan) for name in names)  # older summaries lack them
    return bool((growth >= GROWN and not low <= 1 and goodput < SERVED * offered) or missed > 0.5)
