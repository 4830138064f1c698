"""The raw file of an experiment: a row for every timed request, written as it is measured. All else derives from it.

Columns, in this order (units in brackets):
  `cell`, then its settings that name it, then `run` (0, 1, ... within the cell) and `seconds` [s, wall clock],
  then the cell's other settings, then what else was measured of the request: `block` (requests of a cell that had
  their turn together share a number), `start` [s, when it was begun, on a clock of the run's own], `compute_seconds`
  [s, in the stages], `messages` (sent between processes or handlers), `payload_bytes` [B, all tensors of all
  messages], `wire_bytes` [B, all that crossed: `experiments.measure.wire`], `lookups` (questions to the registry),
  `connects` (connections made), `repeated` (attempts that were lost before the one that was answered) and
  `deviation` (largest |output - local| over largest |local|).
A value that was not measured is an empty field, and is read as NaN where the column may hold it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.spec.experiment import CELL_FIELDS, Cell
from experiments.store import files, rows
from transports.errors import UsageError

NAMING_FIELDS = CELL_FIELDS[: CELL_FIELDS.index("placement")]
EXTRA_FIELDS = CELL_FIELDS[len(NAMING_FIELDS) :]
INTEGERS = (
    *("batch", "servers", "concurrency", "repeats", "run", "block"),
    *("messages", "payload_bytes", "lookups", "connects", "repeated"),
)
NUMBERS = ("seconds", "start", "compute_seconds", "wire_bytes", "deviation")
MAY_BE_EMPTY = ("start", "compute_seconds", "wire_bytes", "deviation")
COLUMNS = (
    *("cell", *NAMING_FIELDS, "run", "seconds", *EXTRA_FIELDS),
    *("block", "start", "compute_seconds"),
    *("messages", "payload_bytes", "wire_bytes", "lookups", "connects", "repeated", "deviation"),
)


LATER: Mapping[str, str] = {"concurrency": "1", "repeats": "0", "start": "", "wire_bytes": "", "repeated": "0"}
"""Columns that came after version 0.1, and what a file without them means."""


@dataclass(frozen=True)
class Sample:
    """What was measured of one timed request. Units as in the columns of the same names."""

    cell: Cell
    run: int
    seconds: float
    block: int
    deviation: float = float("nan")
    compute_seconds: float = float("nan")
    messages: int = 0
    payload_bytes: int = 0
    lookups: int = 0
    connects: int = 0
    repeated: int = 0
    start: float = float("nan")
    wire_bytes: float = float("nan")

    def row(self) -> tuple[str, ...]:
        """The fields of its line, in the order of `COLUMNS`."""
        cell = {name: getattr(self.cell, name) for name in CELL_FIELDS}
        values = {name: getattr(self, name) for name in self.__dataclass_fields__} | cell | {"cell": self.cell.name}
        return tuple(rows.field(values[column]) for column in COLUMNS)


class Writer(rows.Writer):
    """Appends samples to `folder`/samples.csv."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / files.SAMPLES, COLUMNS)


def claim(folder: Path, title: str = "") -> Path:
    """Make `folder` and return it. Raises `UsageError` where the results of what is called `title` cannot go there.

    That is where it holds an experiment already, is a file, or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        raise UsageError(f"--out {folder}: not a folder; give one that is new or empty") from error
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written to ({error.strerror}); give another folder") from error
    refuse_taken(folder, title)
    return folder


def refuse_taken(folder: Path, title: str = "") -> None:
    """Raise `UsageError` where `folder` holds an experiment already, or is no folder; nothing is made."""
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"--out {folder}: not a folder; give one that is new or empty")
    found = sorted(path.name for pattern in files.RESULTS for path in folder.glob(pattern))
    if found:
        asked = f"; {title!r} needs another" if title else "; give another"
        raise UsageError(f"--out {folder}: already holds an experiment ({', '.join(found)}){asked}")


def read(folder: Path) -> pd.DataFrame:
    """The samples of an experiment, with integer, float and text columns as `COLUMNS` says.

    A last line without its end, as a killed run leaves it, is dropped: `frame.attrs["note"]` and a warning in the log
    say so. Raises `UsageError` for a file that is missing or is no samples file, naming the line.
    """
    path = folder / files.SAMPLES
    frame = rows.read(path, COLUMNS, LATER)
    for column in (*INTEGERS, *NUMBERS):
        may_be_empty, positive = column in MAY_BE_EMPTY, column == "seconds"
        values = rows.numbers(
            frame[column], path, may_be_empty=may_be_empty, positive=positive, whole=column in INTEGERS
        )
        frame[column] = values
    _check_cells(frame, path)
    return frame


def _check_cells(frame: pd.DataFrame, path: Path) -> None:
    """A cell has one name and one set of settings; otherwise two files were mixed up."""
    settings = frame[["cell", *CELL_FIELDS]].drop_duplicates()
    double = settings["cell"][settings["cell"].duplicated()]
    if len(double):
        raise UsageError(f"{path}: cell {double.iloc[0]!r} has two different settings")
    repeated = frame.duplicated(["cell", "run"])
    if repeated.any():
        line = int(repeated.to_numpy().argmax())
        raise UsageError(f"{path}, line {line + 2}: run {frame['run'].iloc[line]} of this cell is there twice")


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell that a row of a samples or summary table is about."""
    values: dict[str, Any] = {name: int(row[name]) if name in INTEGERS else str(row[name]) for name in CELL_FIELDS}
    return Cell(**values)
