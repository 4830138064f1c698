"""The progress of a run, on standard error. There is no thread and no timer.

The runner calls `Progress` between requests, and only these calls draw, so nothing is drawn while a request is timed. A
terminal shows one bar for all requests; other outputs get a line at the first request, at each tenth of the run and
every half minute. A closed standard error silences the display; it does not end the run.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

REDRAW = 0.1
"""Least seconds between two drawings of the bar."""
QUIET = 30.0
"""Seconds after which a line is printed even if no tenth was reached."""


class Progress:
    """Context manager for a run of `total` requests (0: unknown) of the cells named `cells`."""

    def __init__(self, total: int, cells: Iterable[str], stream: TextIO | None = None) -> None:
        self.total = total
        self.done = 0
        self.counts = dict.fromkeys(cells, 0)
        self._stream = stream if stream is not None else sys.stderr
        self._bar = _bar(self._stream) if self._stream.isatty() and os.environ.get("TERM") != "dumb" else None
        self._task = self._bar.add_task("", total=total or None, visible=False) if self._bar else None
        self._started = self._drawn = time.monotonic()

    def __enter__(self) -> Progress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        try:
            if self._bar:
                self._bar.refresh()
                self._bar.stop()
        except (OSError, ValueError):
            self._bar = None

    def expect(self, total: int, cells: Iterable[str]) -> None:
        """Set the number of requests and the names of the cells, before the first request."""
        self.total, self.counts = total, dict.fromkeys(cells, 0)
        if self._bar and self._task is not None:
            self._bar.update(self._task, total=total)

    def phase(self, text: str) -> None:
        """Print a step of the preparation: "stages exported", "node 2 READY"."""
        self._line(text)

    def advance(self, cell_name: str, seconds: float) -> None:
        """Count a request of the cell that took `seconds`."""
        if self.done == 0:
            self._started = time.monotonic()  # the time of the preparation does not predict that of requests
        self.done += 1
        self.counts[cell_name] = self.counts.get(cell_name, 0) + 1
        text = f"{cell_name} ({self.counts[cell_name]}): {seconds:.4g} s"
        self._draw(text) if self._bar else self._maybe_line(text)

    def _draw(self, text: str) -> None:
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, completed=self.done, description=text, visible=True)
        if self._is_due(REDRAW) or self.done == self.total:
            try:
                self._bar.refresh()
            except (OSError, ValueError):
                self._bar = None

    def _maybe_line(self, text: str) -> None:
        tenth = self.done * 10 // self.total != (self.done - 1) * 10 // self.total if self.total else False
        if tenth or self.done == 1 or self._is_due(QUIET):
            self._drawn = time.monotonic()
            of = f"/{self.total}" if self.total else ""
            self._line(f"{self.done}{of} requests{self._left()}; {text}")

    def _left(self) -> str:
        """An estimate of the seconds left, from the requests so far; empty at the first one."""
        elapsed = time.monotonic() - self._started
        left = elapsed / max(1, self.done - 1) * (self.total - self.done)
        return f", about {left:.0f} s left" if 1 < self.done < self.total else ""

    def _is_due(self, seconds: float) -> bool:
        now = time.monotonic()
        due = now - self._drawn >= seconds
        self._drawn = now if due else self._drawn
        return due

    def _line(self, text: str) -> None:
        try:
            if self._bar:
                self._bar.console.print(text, markup=False)
            else:
                print(text, file=self._stream, flush=True)
        except (OSError, ValueError):
            self._bar = None


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process and redirect its standard output to /dev/null."""
        self.quiet = True


def _bar(stream: TextIO) -> Bar:
    return Bar(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=_Console(file=stream, highlight=False),
        auto_refresh=False,  # its thread would draw while a request is timed
        expand=True,
        transient=True,
    )
