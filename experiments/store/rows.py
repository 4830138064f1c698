"""Files of measured rows: CSV, written a row at a time so that a killed writer loses none, and read with suspicion."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import pandas as pd

from experiments.store.files import WriteError
from transports.errors import UsageError

log = logging.getLogger("splitbench.experiments")


class Row(Protocol):
    """What was measured at one time."""

    def row(self) -> Sequence[str]:
        """The fields of its line."""
        ...


def field(value: Any) -> str:
    """Numbers in the shortest form that reads back to the same; NaN as an empty field."""
    if isinstance(value, float):
        return "" if value != value else repr(float(value))
    return str(value)


class Writer:
    """Makes the file `path` and appends rows to it. A row is with the operating system once `append` returns.

    So a killed process loses nothing that was appended; a machine that loses power may. Raises `UsageError` where the
    file is there already, and `WriteError` where a row could not be written: the rows before it stay readable.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.rows = 0
        self._size = 0
        try:
            self._file = self.path.open("xb", buffering=0)
        except FileExistsError as error:
            raise UsageError(f"{self.path} already holds samples; give another --out") from error
        except OSError as error:
            raise self._failure(error) from error
        self._write(columns)

    def append(self, item: Row) -> None:
        self._write(item.row())
        self.rows += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, row: Sequence[str]) -> None:
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


def _line(row: Sequence[str]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerow(row)
    return buffer.getvalue().encode()


def read(path: Path, columns: Sequence[str], later: Mapping[str, str] = {}) -> pd.DataFrame:
    """The rows of `path` as text. `later` are columns that a file may lack, and what it then means.

    A last line without its end, as a killed run leaves it, is dropped: `frame.attrs["note"]` and a warning in the log
    say so. Raises `UsageError` for a file that is missing or is no samples file, naming the line.
    """
    whole, _, torn = _text(path).rpartition("\n")
    rows = list(csv.reader(io.StringIO(whole + "\n"))) if whole else []
    frame = _frame(_with_later_columns(rows, columns, later), columns, path)
    if torn:
        frame.attrs["note"] = f"the last line of {path.name} is incomplete, as a killed run leaves it, and was dropped"
        log.warning("%s: %s", path.parent, frame.attrs["note"])
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


def _frame(rows: Sequence[Sequence[str]], columns: Sequence[str], path: Path) -> pd.DataFrame:
    _check_header(rows[0] if rows else [], columns, path)
    for number, row in enumerate(rows[1:], 2):
        if len(row) != len(columns):
            raise UsageError(f"{path}, line {number}: {len(row)} fields, expected {len(columns)}")
    return pd.DataFrame(rows[1:], columns=list(columns), dtype=str)


def _check_header(header: Sequence[str], columns: Sequence[str], path: Path) -> None:
    if list(header) == list(columns):
        return
    missing = [column for column in columns if column not in header]
    extra = [column for column in header if column not in columns][:5]
    what = f"without {', '.join(missing)}" if missing else f"with {', '.join(extra)}" if extra else "in another order"
    raise UsageError(f"{path} is no samples file: its columns are {what}")


def _with_later_columns(rows: list[list[str]], columns: Sequence[str], later: Mapping[str, str]) -> list[list[str]]:
    """The rows with every column of `later` that they lack, in its place."""
    header = rows[0] if rows else []
    missing = [column for column in columns if column not in header]
    if not header or any(column not in later for column in missing):
        return rows
    for column in missing:
        place = columns.index(column)
        for row in rows:
            row.insert(place, later[column])
        rows[0][place] = column
    return rows


def numbers(
    column: pd.Series[Any], path: Path, *, may_be_empty: bool = False, positive: bool = False, whole: bool = False
) -> pd.Series[Any]:
    """A column of text as numbers from zero (`positive`: above it), `whole` ones or not; an empty field is NaN.

    Raises `UsageError` for anything else, naming the line.
    """
    values = pd.to_numeric(column.where(column != "", "nan"), errors="coerce").astype("float64")
    bad = values.isna() & ~((column == "") & may_be_empty)
    bad |= (values <= 0) if positive else (values < 0)
    bad |= values.abs() == float("inf")
    if whole:
        bad |= values != values.round()
    if bad.any():
        line = int(bad.to_numpy().argmax())
        raise UsageError(f"{path}, line {line + 2}: {column.name} is {column.iloc[line]!r}, expected a number")
    return values.astype("int64") if whole else values
