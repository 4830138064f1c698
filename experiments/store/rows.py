"""CSV files of measured rows, which are written one at a time, so that a killed writer loses none, and checked when
read."""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import pandas as pd

from experiments.store.files import WriteError
from transports.errors import UsageError

log = logging.getLogger("splitbench.experiments")


def as_csv(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of a CSV file. A derived file is written in one piece from it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


class Row(Protocol):
    """One measurement."""

    def row(self) -> Mapping[str, Any]:
        """The value of each column. Values of other names are ignored."""
        ...


class Writer:
    """Creates the file `path` and appends rows to it. The operating system has a row once `append` returns.

    A killed process therefore loses no appended row; a machine that loses power may. Raises `UsageError` if the file
    exists, and `WriteError` if a row cannot be written: the rows before it stay readable.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self.rows = 0
        self._columns = columns
        self._size = 0
        try:
            self._file = self.path.open("xb", buffering=0)
        except FileExistsError as error:
            raise UsageError(f"{self.path} already holds samples; give another --out") from error
        except OSError as error:
            raise self._failure(error) from error
        self._write(columns)

    def append(self, item: Row) -> None:
        values = item.row()
        self._write([_field(values[column]) for column in self._columns])
        self.rows += 1

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _write(self, row: Sequence[str]) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(row)
        line = buffer.getvalue().encode()
        try:
            written = 0
            while written < len(line):  # one call, unless the disk is nearly full
                written += self._file.write(line[written:]) or 0
        except OSError as error:
            self._drop_torn_line()
            raise self._failure(error) from error
        self._size += len(line)

    def _drop_torn_line(self) -> None:
        """Best effort: `read` drops a torn line as well."""
        try:
            self._file.truncate(self._size)
            self._file.seek(self._size)
        except OSError:
            log.debug("%s keeps a torn last line", self.path)

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self.path}: {error.strerror}; it keeps the {self.rows} rows before this one")


def _field(value: Any) -> str:
    """Floats in the shortest form that reads back to the same value; NaN as an empty field."""
    if isinstance(value, float):
        return "" if value != value else repr(float(value))
    return str(value)


@dataclass(frozen=True)
class Number:
    """The numbers that a column may hold; all are finite and at least zero."""

    positive: bool = False
    """Above zero."""
    whole: bool = False
    """int64, or float64 if fields are empty; other numbers are float64."""
    may_be_empty: bool = False
    """An empty field is NaN."""


def read(
    path: Path,
    columns: Sequence[str],
    numbers: Mapping[str, Number],
    later: Mapping[str, str] = {},
    *,
    optional: bool = False,
) -> pd.DataFrame:
    """The rows of `path`: the columns in `numbers` as numbers, the others as text.

    `later`: columns that older files lack, and the text that stands for them. `optional`: without the file there are no
    rows. A last line without its end, as a killed run leaves it, is dropped: `frame.attrs["note"]` and a warning in the
    log say so. Raises `UsageError`, with the line, for a file that is missing, has other columns or other values.
    """
    if optional and not path.exists():
        frame = pd.DataFrame(columns=list(columns), dtype=str)
    else:
        frame = _read_texts(path, columns, later)
    for column, kind in numbers.items():
        frame[column] = _numbers(frame[column], path, kind)
    return frame


def _read_texts(path: Path, columns: Sequence[str], later: Mapping[str, str]) -> pd.DataFrame:
    try:
        whole, _, torn = path.read_bytes().decode().rpartition("\n")
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; give a folder that an experiment wrote") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is no samples file: it is not text") from error
    try:
        header, *body = csv.reader(io.StringIO(whole)) if whole else [[]]
    except csv.Error as error:  # a stray quote begins a field that never ends
        raise UsageError(f"{path} is damaged: {error}") from error
    _check_header(header, columns, later, path)
    for number, row in enumerate(body, 2):
        if len(row) != len(header):
            raise UsageError(f"{path}, line {number}: {len(row)} fields, expected {len(header)}")
    known = pd.DataFrame(body, columns=header, dtype=str)
    added = {column: text for column, text in later.items() if column not in header}
    frame = known.assign(**added)[list(columns)].astype(str)
    if torn:
        frame.attrs["note"] = f"the last line of {path.name} is incomplete, as a killed run leaves it, and was dropped"
        log.warning("%s: %s", path.parent, frame.attrs["note"])
    return frame


def _check_header(header: Sequence[str], columns: Sequence[str], later: Mapping[str, str], path: Path) -> None:
    missing = [column for column in columns if column not in header and (column not in later or not header)]
    extra = [column for column in header if column not in columns][:5]
    if not missing and not extra and list(header) == [column for column in columns if column in header]:
        return
    what = f"without {', '.join(missing)}" if missing else f"with {', '.join(extra)}" if extra else "in another order"
    raise UsageError(f"{path} is no samples file: its columns are {what}")


def _numbers(column: pd.Series[Any], path: Path, kind: Number) -> pd.Series[Any]:
    values = pd.to_numeric(column.where(column != "", "nan"), errors="coerce").astype("float64")
    bad = values.isna() & ~((column == "") & kind.may_be_empty)
    bad |= (values <= 0) if kind.positive else (values < 0)
    bad |= values.abs() == float("inf")
    if kind.whole:
        bad |= values.notna() & (values != values.round())
    if bad.any():
        line = int(bad.to_numpy().argmax())
        raise UsageError(f"{path}, line {line + 2}: {column.name} is {column.iloc[line]!r}, expected a number")
    return values.astype("int64") if kind.whole and values.notna().all() else values
