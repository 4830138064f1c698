"""report.md of `experiments.loadgen`, derived from loadgen.csv, samples.csv and environment.json."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.loadgen import logs
from experiments.loadgen.options import NO_RESULT
from experiments.reports import sections
from experiments.reports.labels import Settings
from experiments.reports.markdown import line, number, table
from experiments.spec.settings import from_record
from experiments.store import environment, files, samples
from experiments.store.files import replace_file
from transports.errors import UsageError

OFFICIAL = 600.0
"""Least seconds of a scenario in an official run."""
Row = Mapping[str, Any]
FIGURES: Mapping[str, Callable[[Row], str]] = {
    "LoadGen says": lambda row: str(row["validity"]),
    "Queries": lambda row: str(row["queries"]),
    "Samples": lambda row: str(row["samples"]),
    "Mean (ms)": lambda row: number(row["mean_ms"]),
    "p50 (ms)": lambda row: number(row["p50_ms"]),
    "p90 (ms)": lambda row: number(row["p90_ms"]),
    "p95 (ms)": lambda row: number(row["p95_ms"]),
    "p99 (ms)": lambda row: number(row["p99_ms"]),
    "Samples (1/s)": lambda row: number(row["samples_per_second"]),
    "Target (1/s)": lambda row: number(row["target_qps"]) if row["scenario"] in ("server", "offline") else "",
    "Bound of p99 (ms)": lambda row: number(row["target_latency_ms"]) if row["scenario"] == "server" else "",
    "Least duration (s)": lambda row: f"{row['min_duration']:g}",
}
"""Column -> the text of a row of loadgen.csv."""
SHORT = ("LoadGen says", "Samples", "p50 (ms)", "p99 (ms)", "Samples (1/s)")
"""The columns for which a terminal has room."""


def build(folder: Path) -> Path:
    """Write report.md into `folder` and return its path.

    Raises `UsageError` if `folder` holds no such results, and `WriteError` if the file cannot be written.
    """
    record = environment.read(folder)
    if record["experiment"].get("kind") != "loadgen":
        raise UsageError(f"{folder} holds another experiment; give one that python -m experiments.loadgen wrote")
    replace_file(folder / files.REPORT, _text(record, logs.read(folder), samples.read(folder)))
    return folder / files.REPORT


def terminal(folder: Path) -> Table:
    """The table of the report for a terminal."""
    made = Table(box=SIMPLE_HEAD)
    for heading in ("Scenario", *SHORT):
        made.add_column(heading, justify="right" if heading in SHORT else "left", no_wrap=True)
    for row in _body(logs.read(folder), SHORT):
        made.add_row(*row)
    return made


def _body(outcomes: pd.DataFrame, names: Iterable[str] = FIGURES) -> list[list[str]]:
    rows: list[dict[str, Any]] = outcomes.to_dict("records")  # type: ignore[assignment]
    return [[row["scenario"], *(FIGURES[name](row) for name in names)] for row in rows]


def _text(record: Mapping[str, Any], outcomes: pd.DataFrame, measured: pd.DataFrame) -> str:
    experiment, given = from_record(record["experiment"]["run"]), record["experiment"]["loadgen"]
    (cell,) = experiment.cells
    parts = [
        ["# Under LoadGen"],
        sections.banner(record, measured.attrs.get("note", "")),
        [
            f"Model {line(experiment.model)} ({experiment.weights} weights), cell {line(cell.name)}: "
            f"{line(Settings(experiment.cells).constant)}. MLCommons' load generator decided when each request began, "
            "and measured it; its logs are in a folder for each scenario."
        ],
        [NO_RESULT],
        [
            f"Each scenario lasts at least {given['min_duration']:g} s here; an official run lasts at least "
            f"{OFFICIAL:g} s."
        ],
        _table(outcomes),
        _words(outcomes),
        _unfinished(record, outcomes, measured),
        sections.correctness(record, measured),
        HOW_TO_READ,
        sections.environment({**record, "experiment": record["experiment"]["run"]}, experiment),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _table(outcomes: pd.DataFrame) -> list[str]:
    return table(["Scenario", *FIGURES], _body(outcomes)) if len(outcomes) else ["No scenario was completed."]


def _words(outcomes: pd.DataFrame) -> list[str]:
    """The reasons that LoadGen gives for its verdicts."""
    rows = [row for row in outcomes.to_dict("records") if row["reason"]]
    return ["LoadGen adds:", "", *(f"- {row['scenario']}: {line(str(row['reason']))}" for row in rows)] if rows else []


def _unfinished(record: Mapping[str, Any], outcomes: pd.DataFrame, measured: pd.DataFrame) -> list[str]:
    """The scenario that was running when the run ended early, with its requests."""
    scenarios = record["experiment"]["loadgen"]["scenario"]
    if record["complete"] or len(outcomes) == len(scenarios):
        return []
    ms = 1e3 * measured.loc[measured["block"] == len(outcomes), "seconds"]
    took = f", in {number(ms.median())} ms (median), {number(ms.min())} to {number(ms.max())} ms" if len(ms) else ""
    return [
        f"{scenarios[len(outcomes)]} did not end, so LoadGen's logs of it are incomplete. "
        f"{len(ms)} requests were answered{took}."
    ]


HOW_TO_READ = [
    "## How to read this",
    "",
    "- A **sample** is a request with one batch of inputs; a **query** is what LoadGen issues at a time: "
    "one sample (single-stream, server), several (multi-stream), or all (offline).",
    "- **Latencies** are LoadGen's, of a sample, in multi-stream of a query. In server they begin at the moment at "
    "which LoadGen had scheduled the query, in offline at the start of the scenario.",
    "- **LoadGen says** VALID if its own rules are met: the least duration and queries, its early-stopping estimate "
    "and, in server, the bound of the 99th percentile.",
    f"- {files.SAMPLES} has a row for each answered request, as the client saw it; block 0 is the first scenario.",
]
