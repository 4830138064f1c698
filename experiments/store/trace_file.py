"""trace.json: what each process did for the first requests of each traced cell, as Chrome trace events.

https://ui.perfetto.dev and chrome://tracing open it. It is a JSON array with an event on each line, and valid JSON
after each block of requests. Times are microseconds on the run's clock, that of `start` in samples.csv.

    {"name": "compute body", "cat": "compute", "ph": "X", "ts": 12.5, "dur": 3.25, "pid": 2, "tid": 1, "args": {...}}

`pid`: 1 is the client, others are nodes; events with the name `process_name` name them. `tid`: a lane on which spans
nest. `args`: `trace`, `span` and `parent` are hexadecimal ids of W3C Trace Context; the span of a request has an empty
parent, its `cell` and its `run`; `server` is the portion (-1: none). If the span of a parent was lost with its process,
the request's span replaces it as the parent. The first event, `splitbench`, has `requests`, the largest number of them
for a cell, and `epoch`, seconds since 1970 at time 0. The last, `ended`, says whether the run is `complete`; without it
the run was killed.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from experiments.store import files
from experiments.store.files import WriteError
from transports.errors import UsageError

Event = Mapping[str, Any]
REQUESTS = 10
"""How many requests of each cell have their spans kept; phases.csv covers all requests. A cell of 40 stages takes about
1.5 MB."""
END = b"\n]\n"


class Writer:
    """Creates the file in `folder`, and appends events. A context manager: on exit it records how the run ended.

    Raises `UsageError` if the file exists, and `WriteError` if it cannot be written; earlier events stay readable.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / files.TRACE
        self._size = 0
        try:
            self._file = self._path.open("xb", buffering=0)
        except FileExistsError as error:
            raise UsageError(f"{self._path} already holds a trace; give another --out") from error
        except OSError as error:
            raise self._failure(error) from error
        self._write(b"[")

    def append(self, events: Iterable[Event]) -> None:
        """Write the events with one call."""
        lines = [json.dumps(event, separators=(",", ":")) for event in events]
        if lines:
            text = ",\n".join(lines)
            self._write((",\n" if self._size > 1 else "\n").encode() + text.encode())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with contextlib.closing(self._file):
            self.append([{"name": "ended", "ph": "M", "pid": 1, "args": {"complete": kind is None}}])

    def _write(self, data: bytes) -> None:
        """Overwrite the closing bracket of the file with `data` and a new closing bracket."""
        try:
            self._file.seek(self._size)
            for part in (data, END):
                written = 0
                while written < len(part):
                    written += self._file.write(part[written:]) or 0
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
                self._file.seek(self._size)
                self._file.write(END)
            raise self._failure(error) from error
        self._size += len(data)

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self._path}: {error.strerror}")


@dataclass(frozen=True)
class Trace:
    """The content of a trace.json."""

    spans: tuple[Event, ...]
    """The events with a time."""
    processes: Mapping[int, str]
    """`pid` -> name."""
    epoch: float
    """Seconds since 1970 at time 0."""
    complete: bool
    """Whether the run ended well."""


def read(folder: Path) -> Trace:
    """The trace of a run, even if the run was killed while it wrote. Raises `UsageError` without a trace."""
    path = folder / files.TRACE
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{folder}: no {files.TRACE} ({error.strerror}); measure again with --trace") from error
    events: list[Event] = []
    for line in lines:
        with contextlib.suppress(ValueError):  # the brackets, and the last line of a run that was killed
            event = json.loads(line.rstrip(b","))
            events += [event] if isinstance(event, dict) else []
    try:
        about = {event["name"]: event["args"] for event in events if event["ph"] == "M" and event["pid"] == 1}
        named = (event for event in events if event["name"] == "process_name")
        return Trace(
            tuple(event for event in events if event["ph"] == "X"),
            {event["pid"]: event["args"]["name"] for event in named},
            float(about["splitbench"]["epoch"]),
            bool(about.get("ended", {}).get("complete")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{path} is no trace of splitbench: {type(error).__name__}: {error}") from error
