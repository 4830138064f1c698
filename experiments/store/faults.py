"""faults.csv: what came of the kills of an experiment.

Columns (units in brackets): `cell`, `run` and `start` [s] as in samples.csv, on the same clock; `seconds` [s] until it
failed, 0 for a kill; `event`, which is `kill` or `failed`; `what`, the node or the kind of error; `text`, the error's.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.spec.experiment import Cell
from experiments.store import files, rows

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

    def row(self) -> tuple[str, ...]:
        """The fields of its line, in the order of `COLUMNS`."""
        return tuple(rows.field(getattr(self, name) if name != "cell" else self.cell.name) for name in COLUMNS)


def writer(folder: Path) -> rows.Writer:
    """Makes faults.csv and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.FAULTS, COLUMNS)


def read(folder: Path) -> pd.DataFrame:
    """The faults of an experiment; no row where nothing was killed. Raises `UsageError` for another file."""
    path = folder / files.FAULTS
    frame = rows.read(path, COLUMNS) if path.exists() else pd.DataFrame(columns=list(COLUMNS), dtype=str)
    frame["run"] = rows.numbers(frame["run"], path, whole=True)
    for column in ("start", "seconds"):
        frame[column] = rows.numbers(frame[column], path)
    return frame
