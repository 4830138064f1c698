"""ladder.csv: the steps between a local model and a request over a transport, measured in the rounds of an experiment.

Columns (units in brackets): `cell`, the request that the step explains; `rung`, one of `RUNGS`; `round` as in
samples.csv; `seconds` [s].
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
from transports.errors import UsageError

COLUMNS = ("cell", "rung", "round", "seconds")
RUNGS: Mapping[str, str] = {
    "row": "the stages of the plan in a row in one process, without nodes",
    "sockets": "the bytes of the request's messages and answers over plain TCP sockets, one after the other",
    "library": "the same bytes over the transport's library alone, as its users write it",
    "transport": "the same bytes over the transport, in an echo without nodes",
    "empty": "the request with stages that compute nothing",
    "empty none": "the same over the transport none",
    "empty chain": "the same over plain sockets, without nodes",
}


@dataclass(frozen=True)
class Step:
    """A row of ladder.csv."""

    cell: Cell
    rung: str
    round: int
    seconds: float

    def row(self) -> Mapping[str, Any]:
        return vars(self) | {"cell": self.cell.name}


def writer(folder: Path) -> rows.Writer:
    """Creates ladder.csv in `folder` and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.LADDER, COLUMNS)


def read(folder: Path) -> pd.DataFrame:
    """The steps; no rows without the file. Raises `UsageError`, with the line, for a file of another kind."""
    path = folder / files.LADDER
    numbers = {"round": Number(whole=True), "seconds": Number(positive=True)}
    frame = rows.read(path, COLUMNS, numbers, optional=True)
    unknown = frame["rung"][~frame["rung"].isin(list(RUNGS))]
    if len(unknown):
        raise UsageError(f"{path}: no rung {unknown.iloc[0]!r}; valid: {', '.join(RUNGS)}")
    return frame
