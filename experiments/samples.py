"""The raw file of an experiment: a row for every timed request, written as it is measured. All else derives from it.

Columns, in this order (units in brackets):
  `cell`, then its settings that name it, then `run` (0, 1, ... within the cell) and `seconds` [s, wall clock],
  then the cell's other settings, then what else was measured of the request: `block` (requests of a cell that had
  their turn together share a number), `start` [s, when it was begun, on a clock of the run's own], `compute_seconds`
  [s, in the stages], `messages` (sent between processes or handlers), `payload_bytes` [B, all tensors of all
  messages], `wire_bytes` [B, all that crossed: `experiments.wire`], `lookups` (questions to the registry), `connects`
  (connections made) and `deviation` (largest |output - local| over largest |local|).
A value that was not measured is an empty field, and is read as NaN where the column may hold it.
"""

from __future__ import annotations

import csv
import io
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.files import WriteError
from experiments.specification import CELL_FIELDS, Cell, Experiment
from transports.errors import UsageError

__all__ = [
    "COLUMNS",
    "EXTRA_FIELDS",
    "NAME",
    "NAMING_FIELDS",
    "Sample",
    "Writer",
    "cell_of",
    "claim",
    "read",
]

log = logging.getLogger("splitbench.experiments")

NAME = "samples.csv"
RESULTS = (NAME, "summary.csv", "report.md", "environment.json", "comparison.svg", "plan-*.json")
"""What a folder that already holds an experiment holds some of."""

NAMING_FIELDS = CELL_FIELDS[: CELL_FIELDS.index("placement")]
EXTRA_FIELDS = CELL_FIELDS[len(NAMING_FIELDS) :]
INTEGERS = ("batch", "servers", "concurrency", "run", "block", "messages", "payload_bytes", "lookups", "connects")
NUMBERS = ("seconds", "start", "compute_seconds", "wire_bytes", "deviation")
MAY_BE_EMPTY = ("start", "compute_seconds", "wire_bytes", "deviation")
COLUMNS = (
    *("cell", *NAMING_FIELDS, "run", "seconds", *EXTRA_FIELDS),
    *("block", "start", "compute_seconds"),
    *("messages", "payload_bytes", "wire_bytes", "lookups", "connects", "deviation"),
)


LATER: Mapping[str, str] = {"concurrency": "1", "start": "", "wire_bytes": ""}
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
    start: float = float("nan")
    wire_bytes: float = float("nan")

    def row(self) -> tuple[str, ...]:
        """The fields of its line, in the order of `COLUMNS`."""
        cell = {name: getattr(self.cell, name) for name in CELL_FIELDS}
        values = {name: getattr(self, name) for name in self.__dataclass_fields__} | cell | {"cell": self.cell.name}
        return tuple(_field(values[column]) for column in COLUMNS)


def _field(value: Any) -> str:
    """Numbers in the shortest form that reads back to the same; NaN as an empty field."""
    if isinstance(value, float):
        return "" if value != value else repr(float(value))
    return str(value)


class Writer:
    """Appends samples to `folder`/samples.csv. A row is with the operating system once `append` returns.

    So a killed process loses nothing that was appended; a machine that loses power may. Raises `UsageError` where the
    file is there already, and `WriteError` where a row could not be written: the rows before it stay readable.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self.rows = 0
        self._size = 0
        try:
            self._file = self.path.open("xb", buffering=0)
        except FileExistsError as error:
            raise UsageError(f"{self.path} already holds samples; give another --out") from error
        except OSError as error:
            raise self._failure(error) from error
        self._write(COLUMNS)

    def append(self, sample: Sample) -> None:
        self._write(sample.row())
        self.rows += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, row: tuple[str, ...]) -> None:
        line = _line(row)
        try:
            written = 0
            while written < len(line):  # one call, unless the disk is about to be full
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            self._drop_torn_line()
            raise self._failure(error) from error
        self._size += len(line)

    def _drop_torn_line(self) -> None:
        """Best effort: `read` copes with a torn line as well."""
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
        except OSError:
            log.debug("%s keeps a torn last line", self.path)

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self.path}: {error.strerror}; it keeps the {self.rows} rows before this one")


def _line(row: tuple[str, ...]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue().encode()


def claim(folder: Path, experiment: Experiment) -> Path:
    """Make `folder` and return it. Raises `UsageError` where the results of `experiment` cannot go there.

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
    found = sorted(path.name for pattern in RESULTS for path in folder.glob(pattern))
    if found:
        asked = f"; {experiment.title!r} needs another" if experiment.title else "; give another"
        raise UsageError(f"--out {folder}: already holds an experiment ({', '.join(found)}){asked}")
    return folder


def read(folder: Path) -> pd.DataFrame:
    """The samples of an experiment, with integer, float and text columns as `COLUMNS` says.

    A last line without its end, as a killed run leaves it, is dropped: `frame.attrs["note"]` and a warning in the log
    say so. Raises `UsageError` for a file that is missing or is no samples file, naming the line.
    """
    path = folder / NAME
    text = _text(path)
    whole, _, torn = text.rpartition("\n")
    frame = _frame(list(csv.reader(io.StringIO(whole + "\n"))) if whole else [], path)
    if torn:
        frame.attrs["note"] = f"the last line of {NAME} is incomplete, as a killed run leaves it, and was dropped"
        log.warning("%s: %s", folder, frame.attrs["note"])
    return frame


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except OSError as error:
        raise UsageError(
            f"cannot read {path}: {error.strerror}; give a folder that an experiment has written"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no samples file: it is not text") from error


def _frame(rows: list[list[str]], path: Path) -> pd.DataFrame:
    rows = _with_later_columns(rows)
    header = rows[0] if rows else []
    if tuple(header) != COLUMNS:
        missing = [column for column in COLUMNS if column not in header]
        extra = [column for column in header if column not in COLUMNS][:5]
        what = (
            f"without {', '.join(missing)}" if missing else f"with {', '.join(extra)}" if extra else "in another order"
        )
        raise UsageError(f"{path} is no samples file: its columns are {what}")
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(COLUMNS):
            raise UsageError(f"{path}, line {number}: {len(row)} fields, expected {len(COLUMNS)}")
    frame = pd.DataFrame(rows[1:], columns=list(COLUMNS), dtype=str)
    for column in (*INTEGERS, *NUMBERS):
        frame[column] = _numeric(frame[column], path)
    _check_cells(frame, path)
    return frame


def _with_later_columns(rows: list[list[str]]) -> list[list[str]]:
    """The rows with every column of `LATER` that they lack, in its place."""
    header = rows[0] if rows else []
    missing = [column for column in COLUMNS if column not in header]
    if not header or any(column not in LATER for column in missing):
        return rows
    for column in missing:
        place = COLUMNS.index(column)
        for row in rows:
            row.insert(place, LATER[column])
        rows[0][place] = column
    return rows


def _numeric(column: pd.Series[Any], path: Path) -> pd.Series[Any]:
    name = str(column.name)
    values = pd.to_numeric(column.where(column != "", "nan"), errors="coerce").astype("float64")
    bad = values.isna() & ~((column == "") & (name in MAY_BE_EMPTY))
    bad |= (values <= 0) if name == "seconds" else (values < 0)
    bad |= values.abs() == float("inf")
    if name in INTEGERS:
        bad |= values != values.round()
    if bad.any():
        line = int(bad.to_numpy().argmax())
        raise UsageError(f"{path}, line {line + 2}: {name} is {column.iloc[line]!r}, expected a number")
    return values.astype("int64") if name in INTEGERS else values


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
