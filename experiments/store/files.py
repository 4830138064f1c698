"""The files of a results folder: their names, and how a derived one is replaced."""

from __future__ import annotations

import tempfile
from pathlib import Path

from transports.errors import SplitbenchError

SAMPLES = "samples.csv"
ENVIRONMENT = "environment.json"
FAULTS = "faults.csv"
NODES = "nodes.csv"
PHASES = "phases.csv"
PHASES_CHART = "phases.svg"
TRACE = "trace.json"
PLAN = "plan-{}.json"
"""A file for each partition; the name of the partition fills the braces."""
SUMMARY = "summary.csv"
REPORT = "report.md"
REPORT_HTML = "report.html"
CELLS = "cells.md"
"""Every figure of every cell, the meaning of the figures, and the environment; `REPORT` has no room for these."""
CHART = "comparison.svg"
DISTRIBUTIONS = "distributions.svg"
DEPTH = "depth.svg"
TOPOLOGY = "hosts.svg"
SIZES = "sizes.svg"
"""The chart of `experiments.sizes`."""
LADDER = "ladder.csv"
LADDER_CHART = "ladder.svg"
LINK_MAP = "links.svg"
PROFILE, OPERATIONS, MESSAGES, HOSTS, GRAPH = (
    "profile.csv",
    "operations.csv",
    "messages.csv",
    "hosts.csv",
    "graph.json",
)
"""The files of a profile (`experiments.store.profile`)."""
ADVICE, ADVICE_MD, FIT, PREDICTIONS, REGRET = (
    "advice.csv",
    "advice.md",
    "fit.csv",
    "predictions.csv",
    "regret.csv",
)
"""The files of an advice (`experiments.advise`)."""
LOAD = "load.svg"
PARETO = "pareto.svg"
SIMULATION, SIMULATION_REPORT, REPLICAS = "simulation.csv", "simulation.md", "replicas.svg"
"""The files of `experiments.simulate`."""
CHECK, CHECK_REPORT = "check.csv", "check.md"
"""The files of `experiments.simulate.check`."""
THREADS = "threads.csv"
"""The requests of `experiments.threads`."""
LOADGEN = "loadgen.csv"
"""LoadGen's results for each scenario (`experiments.loadgen`)."""

RESULTS = (
    SAMPLES,
    SUMMARY,
    REPORT,
    REPORT_HTML,
    CELLS,
    ENVIRONMENT,
    CHART,
    DISTRIBUTIONS,
    DEPTH,
    TOPOLOGY,
    FAULTS,
    NODES,
    PHASES,
    PHASES_CHART,
    TRACE,
    SIZES,
    THREADS,
    SIMULATION,
    SIMULATION_REPORT,
    REPLICAS,
    CHECK,
    CHECK_REPORT,
    LOADGEN,
    LADDER,
    LADDER_CHART,
    PROFILE,
    OPERATIONS,
    MESSAGES,
    HOSTS,
    GRAPH,
    LOAD,
    PARETO,
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
