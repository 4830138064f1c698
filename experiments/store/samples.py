"""samples.csv, the raw file of an experiment: a row for each timed request. All other results derive from it.

Columns, in this order (units in brackets):
  `cell`, the settings in a cell's name, `run` (0, 1, ... within the cell), `seconds` [s, wall clock],
  the cell's other settings, then what else was measured of the request: `block` (consecutive requests of one cell
  share a number), `start` [s, on a clock of the run], `compute_seconds` [s, in the stages], `messages` (between
  processes or handlers), `payload_bytes` [B, all tensors of all messages], `wire_bytes` [B, everything that crossed:
  `experiments.measure.wire`], `lookups` (registry lookups), `connects` (new connections), `repeated` (failed attempts
  before the one that was answered), `deviation` (largest |output - local| over largest |local|), `queue_seconds` [s,
  in which stages waited for a free core], `round` (in which each cell has one block), `near_ties` (elements of
  integer or boolean outputs that differ from the local model's because the scores that decide them are almost equal)
  and, under an open-loop load, `late_seconds` [s, from the intended to the actual start] and `missed` (1: not answered
  within the time limit, or refused by a full server; `seconds` is then at least the time limit, a lower bound).
  Under such a load `start` is the intended start, and `seconds` count from it. With a `wire`: `pack_seconds` and
  `unpack_seconds` [s, of all processes], `raw_bytes` and `packed_bytes` [B, the tensors before packing, and the bytes
  that crossed in their place] and, if packing is lossy, `cosine` (cosine similarity of the answer and the local model's
  answer, the smallest of all outputs and items; 0 if negative) and `top1` (share of the items whose largest value is at
  the same place as in the local model's answer).
A value that was not measured is an empty field, read as NaN. A runtime gives no figures from inside a request.
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
from experiments.store.rows import Number
from transports.errors import UsageError

NAMING_FIELDS = CELL_FIELDS[: CELL_FIELDS.index("placement")]
EXTRA_FIELDS = CELL_FIELDS[len(NAMING_FIELDS) :]
INTEGERS = (
    *("batch", "servers", "concurrency", "repeats", "run", "block"),
    *("messages", "payload_bytes", "lookups", "connects", "repeated", "near_ties", "missed"),
)
"""Columns of whole numbers."""
COUNTS = ("messages", "payload_bytes", "lookups", "connects")
"""The columns of `INTEGERS` that may be empty."""
PACKING = ("pack_seconds", "unpack_seconds", "raw_bytes", "packed_bytes", "cosine", "top1")
"""Figures of packing and, if it is lossy, of the answers."""
MEASURED = ("start", "compute_seconds", "wire_bytes", "deviation", "queue_seconds", "round", "late_seconds", *PACKING)
MAY_BE_EMPTY = (*MEASURED, *COUNTS)
NUMBERS = ("seconds", *MEASURED)
COLUMNS = (
    *("cell", *NAMING_FIELDS, "run", "seconds", *EXTRA_FIELDS),
    *("block", "start", "compute_seconds"),
    *("messages", "payload_bytes", "wire_bytes", "lookups", "connects", "repeated", "deviation"),
    *("queue_seconds", "round", "near_ties", "late_seconds", "missed", *PACKING),
)

LATER: Mapping[str, str] = {
    **dict.fromkeys(("start", "wire_bytes", "queue_seconds", "round", "late_seconds"), ""),
    **dict.fromkeys(("repeats", "repeated", "near_ties", "missed"), "0"),
    "concurrency": "1",
    **dict.fromkeys(("load", "on", "link", "label"), ""),
    "trace": "off",
    "wire": "none",
    **dict.fromkeys(PACKING, ""),
}
"""Columns that were added after version 0.1, and the text that stands for them in older files."""


@dataclass(frozen=True)
class Sample:
    """One timed request. Units as in the columns of the same names."""

    cell: Cell
    run: int
    seconds: float
    block: int
    deviation: float = float("nan")
    compute_seconds: float = float("nan")
    messages: float = 0
    payload_bytes: float = 0
    lookups: float = 0
    connects: float = 0
    repeated: int = 0
    start: float = float("nan")
    wire_bytes: float = float("nan")
    queue_seconds: float = float("nan")
    round: float = float("nan")
    """A whole number; NaN in samples of earlier versions, which had no rounds."""
    near_ties: int = 0
    late_seconds: float = float("nan")
    missed: int = 0
    pack_seconds: float = float("nan")
    unpack_seconds: float = float("nan")
    raw_bytes: float = float("nan")
    packed_bytes: float = float("nan")
    cosine: float = float("nan")
    top1: float = float("nan")

    def row(self) -> Mapping[str, Any]:
        return vars(self) | {name: getattr(self.cell, name) for name in CELL_FIELDS} | {"cell": self.cell.name}


class Writer(rows.Writer):
    """Appends samples to `folder`/samples.csv."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder / files.SAMPLES, COLUMNS)


def claim(folder: Path, title: str = "") -> Path:
    """Create `folder` for the results of the experiment `title`, and return it.

    Raises `UsageError` if it already holds an experiment, is a file, or cannot be written to.
    """
    refuse_taken(folder, title)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--out {folder}: cannot be written to ({error.strerror}); give another folder") from error
    return folder


def refuse_taken(folder: Path, title: str = "") -> None:
    """Raise `UsageError` if `folder` holds an experiment, is a file, or cannot be written to. Leaves nothing there."""
    nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise UsageError(f"--out {folder}: not a folder; give one that is new or empty")
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise UsageError(
            f"--out {folder}: {nearest} cannot be written to ({error.strerror}); give another folder"
        ) from error
    found = sorted(path.name for pattern in files.RESULTS for path in folder.glob(pattern))
    if found:
        needs = f"; {title!r} needs another" if title else "; give another"
        raise UsageError(f"--out {folder}: already holds an experiment ({', '.join(found)}){needs}")


def read(folder: Path) -> pd.DataFrame:
    """The samples of an experiment: `INTEGERS` as int64, `NUMBERS` as float64, other columns as text.

    A torn last line is dropped as `rows.read` says. Raises `UsageError`, with the line, for a file that is missing or
    is no samples file.
    """
    path = folder / files.SAMPLES
    numbers = {
        column: Number(column == "seconds", column in INTEGERS, column in MAY_BE_EMPTY)
        for column in (*INTEGERS, *NUMBERS)
    }
    frame = rows.read(path, COLUMNS, numbers, LATER)
    settings = frame[["cell", *CELL_FIELDS]].drop_duplicates()
    double = settings["cell"][settings["cell"].duplicated()]
    if len(double):
        raise UsageError(f"{path}: cell {double.iloc[0]!r} has two different settings")
    repeated = frame.duplicated(["cell", "run"])
    if repeated.any():
        line = int(repeated.to_numpy().argmax())
        raise UsageError(f"{path}, line {line + 2}: run {frame['run'].iloc[line]} of this cell is there twice")
    return frame


def cell_of(row: Mapping[str, Any]) -> Cell:
    """The cell of a row of a samples or summary table, in which pandas may have read an empty text as NaN.

    Tables of earlier versions lack some fields of a cell.
    """
    known = {name: row.get(name, LATER.get(name)) for name in CELL_FIELDS}
    texts = {name: "" if value != value else str(value) for name, value in known.items()}
    values: dict[str, Any] = {name: int(row[name]) if name in INTEGERS else text for name, text in texts.items()}
    return Cell(**values)
