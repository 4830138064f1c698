"""How far a run is, on standard error. Nothing here runs by itself: no thread, no timer.

The runner calls between requests, and only then is anything drawn, so that no display falls into what is timed. On a
terminal there is one bar over all requests; elsewhere there are plain lines: at the first request, at each tenth, and
every half minute. A standard error that has gone away silences the display; it does not end the run.
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
"""Seconds between two drawings of the bar."""
QUIET = 30.0
"""Seconds after which a line is due even if no tenth was reached."""


class Progress:
    """A context manager around a run of `total` requests over the cells named `cells`."""

    def __init__(self, total: int, cells: Iterable[str], stream: TextIO | None = None) -> None:
        self.total = total
        self.done = 0
        self.counts = dict.fromkeys(cells, 0)
        self._stream = stream if stream is not None else sys.stderr
        self._bar = _bar(self._stream) if self._stream.isatty() and os.environ.get("TERM") != "dumb" else None
        self._task = self._bar.add_task("", total=total, visible=False) if self._bar else None
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

    def phase(self, text: str) -> None:
        """Say what is being prepared: "stages exported", "node 2 READY"."""
        self._line(text)

    def advance(self, cell_name: str, seconds: float) -> None:
        """Count a request of the cell, which took `seconds`."""
        if self.done == 0:
            self._started = time.monotonic()  # phases took their time too, and say nothing about requests
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
            self._line(f"{self.done}/{self.total} requests{self._left()}; {text}")

    def _left(self) -> str:
        """Seconds left, if requests go on as they did so far; nothing at the first one, which says nothing yet."""
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
        """Rich would end the process, and send its standard output nowhere."""
        self.quiet = True


def _bar(stream: TextIO) -> Bar:
    return Bar(
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=_Console(file=stream, highlight=False),
        auto_refresh=False,  # its thread would draw while a request is being timed
        expand=True,
        transient=True,
    )
