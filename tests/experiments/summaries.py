"""Samples written to a file and read back, and the rows of their summary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from experiments.spec.experiment import Cell
from experiments.store.samples import Sample, Writer, read


def frame(folder: Path, seconds: dict[Cell, Sequence[float]], block: int = 10, rounds: bool = False) -> pd.DataFrame:
    """`rounds`: with a round for each block; otherwise as an earlier version wrote them."""
    with Writer(folder) as writer:
        for place, (cell, values) in enumerate(seconds.items()):
            for run, value in enumerate(values):
                hops = {"messages": run, "payload_bytes": 100, "lookups": 1, "connects": 2}
                sample = Sample(cell, run, value, 1000 * place + run // block, run * 1e-9, value / 4, **hops)
                writer.append(replace(sample, round=run // block if rounds else math.nan))
    return read(folder)


def rows(summary: pd.DataFrame) -> dict[str, dict[str, float]]:
    return {str(row["cell"]): row for row in summary.to_dict("records")}  # type: ignore[misc]
