"""faults.csv: the kills of an experiment and the requests that failed after them.

Columns (units in brackets): `cell`, `run` and `start` [s] as in samples.csv, on the same clock; `seconds` [s] until
the request failed, 0 for a kill; `event`: `kill` or `failed`; `what`: the node, or the kind of error; `text`: the
error's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.spec.experiment import Cell
from experiments.store import files, rows
from experiments.store.rows import Number

COLUMNS = ("cell", "run", "start", "seconds", "event", "what", "text")


@dataclass(frozen=True)
class Fault:
    """A row of faults.csv."""

    cell: Cell
    run: int
    start: float
    seconds: float
    event: str
    what: str
    text: str = ""

    def row(self) -> Mapping[str, Any]:
        return vars(self) | {"cell": self.cell.name}


def writer(folder: Path) -> rows.Writer:
    """Creates faults.csv in `folder` and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.FAULTS, COLUMNS)


def read(folder: Path) -> pd.DataFrame:
    """The faults of an experiment; no rows if no node was killed. Raises `UsageError` for a file with other columns."""
    numbers = {"run": Number(whole=True), "start": Number(), "seconds": Number()}
    return rows.read(folder / files.FAULTS, COLUMNS, numbers, optional=True)
