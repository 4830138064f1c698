"""The files of a results folder: what they are called, and how one is rewritten as a whole.

A reader then finds the old one or the new one, never a part.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from transports.errors import SplitbenchError

SAMPLES = "samples.csv"
ENVIRONMENT = "environment.json"
FAULTS = "faults.csv"
PLAN = "plan-{}.json"
"""Of each partition, by its name."""
SUMMARY = "summary.csv"
REPORT = "report.md"
CHART = "comparison.svg"
SIZES = "sizes.svg"
"""The chart of `experiments.sizes`."""
THREADS = "threads.csv"
"""The requests of `experiments.threads`."""

RESULTS = (SAMPLES, SUMMARY, REPORT, ENVIRONMENT, CHART, FAULTS, SIZES, THREADS, PLAN.format("*"))
"""Patterns, of which a folder that already holds an experiment holds some."""


class WriteError(SplitbenchError):
    """A result could not be written; the text names the file and the cause (exit status 1)."""


def replace_file(path: Path, content: str) -> None:
    """Make `content` the text of `path`, atomically. Raises `WriteError`; the old file is then still there."""
    new: Path | None = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            new = Path(file.name)
            file.write(content.encode())
        new.chmod(0o644)
        new.replace(path)
    except OSError as error:
        if new is not None:
            new.unlink(missing_ok=True)
        raise WriteError(f"cannot write {path}: {error.strerror}") from error
