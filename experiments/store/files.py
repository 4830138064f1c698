"""The files of a results folder: their names, and how a derived one is replaced."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transports.errors import SplitbenchError

SAMPLES = "samples.csv"
ENVIRONMENT = "environment.json"
FAULTS = "faults.csv"
NODES = "nodes.csv"
PLAN = "plan-{}.json"
"""One for each partition, by its name."""
SUMMARY = "summary.csv"
REPORT = "report.md"
REPORT_HTML = "report.html"
CHART = "comparison.svg"
SIZES = "sizes.svg"
"""The chart of `experiments.sizes`."""
LADDER = "ladder.csv"
LADDER_CHART = "ladder.svg"
LINK_MAP = "links.svg"
THREADS = "threads.csv"
"""The requests of `experiments.threads`."""

RESULTS = (
    SAMPLES,
    SUMMARY,
    REPORT,
    REPORT_HTML,
    ENVIRONMENT,
    CHART,
    FAULTS,
    NODES,
    SIZES,
    THREADS,
    LADDER,
    LADDER_CHART,
    PLAN.format("*"),
)
"""Patterns. A folder with a file that matches one of them holds an experiment."""


class WriteError(SplitbenchError):
    """A result could not be written; the text names the file and the cause (exit status 1)."""


def replace_file(path: Path, content: str) -> None:
    """Write `content` to `path` atomically: a reader finds the old file or the new one, never a part.

    Raises `WriteError`; the old file is then unchanged.
    """
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
