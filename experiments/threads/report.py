"""Records of `experiments.threads`, and the reports derived from threads.csv, which has a row for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.flows import FLOWS
from experiments.reports import sections
from experiments.reports.html import Page
from experiments.reports.labels import transport_title
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.store import environment, files, rows
from experiments.store.rows import Number
from transports.errors import UsageError

COLUMNS = ("workers", "flow", "outcome", "seconds")


@dataclass(frozen=True)
class Outcome:
    """The outcome of one request: `completes`, `blocks` (until its deadline) or `refused`; and its seconds."""

    workers: int
    flow: str
    outcome: str
    seconds: float

    def row(self) -> Mapping[str, Any]:
        return vars(self)


def observed_minimum(outcomes: Sequence[Outcome], flow: str) -> int | None:
    """The fewest workers with which the flow completes; `None` if it never does."""
    return min((item.workers for item in outcomes if item.flow == flow and item.outcome == "completes"), default=None)


def grid(needed: int | None, outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row for each number of workers, with a text for each flow. `needed`: the predicted minimum of workers."""
    found = {(item.workers, item.flow): f"{item.outcome} {number(item.seconds, 3)} s" for item in outcomes}
    made = []
    for workers in sorted({item.workers for item in outcomes}):
        head = f"{workers}{' (predicted)' if workers == needed else ''}"
        made.append([head, *(found.get((workers, flow), ABSENT) for flow in FLOWS)])
    return made


def build(folder: Path) -> Path:
    """Write report.md and report.html into `folder`; return the path of report.md.

    Raises `UsageError` if `folder` holds no such results, and `WriteError` if the file cannot be written.
    """
    record = environment.read(folder)
    if record["experiment"].get("kind") != "threads":
        raise UsageError(f"{folder} holds another experiment; give one that python -m experiments.threads wrote")
    return _page(record, _read(folder / files.THREADS)).write(folder)


def _read(path: Path) -> list[Outcome]:
    frame = rows.read(path, COLUMNS, {"workers": Number(positive=True, whole=True), "seconds": Number(positive=True)})
    return [Outcome(*values) for values in frame.itertuples(index=False)]


def _page(record: Mapping[str, Any], outcomes: Sequence[Outcome]) -> Page:
    needed, chain = record.get("predicted"), record["experiment"]
    observed = observed_minimum(outcomes, "nested")
    minimum = f"Workers that nested calls need: predicted {needed or ABSENT}, observed {observed or ABSENT}."
    parts = {
        "banner": sections.banner(record, ""),
        "outcomes": ["## Outcomes", "", *_table(needed, outcomes)] if outcomes else [],
        "notes": [
            f"One request in each flow, through a chain of {chain['depth']} layers assigned to {chain['servers']} "
            f"servers in turn, over {transport_title(chain['transport'])}, with a deadline of {chain['timeout']:g} s. "
            f"{WHEN_FULL[chain['when_full']]}"
        ],
        "reading": HOW_TO_READ,
        "environment": sections.machine(record, {}),
    }
    asked = "How many workers does each server need so that nested calls do not wait for each other for good?"
    return Page(TITLE, asked, [minimum if outcomes else "No request was made."], "", parts)


def table_of(folder: Path) -> list[str]:
    """The table in the report of `folder`. Raises `UsageError` if `folder` holds no such results."""
    return _table(environment.read(folder).get("predicted"), _read(folder / files.THREADS))


def _table(needed: int | None, outcomes: Sequence[Outcome]) -> list[str]:
    body = [[line(cell) for cell in row] for row in grid(needed, outcomes)]
    return table(["Workers of each server", *FLOWS], body)


TITLE = "How many workers nested calls need"
WHEN_FULL = {
    "wait": "A call waits until a worker is free.",
    "refuse": "A server refuses a call if no worker is free.",
}
HOW_TO_READ = [
    "## How to read this",
    "",
    "- **completes**: the request was answered. **blocks**: it was not answered before its deadline. **refused**: a "
    "server had no free worker. The seconds are those of a single request, the first of its cluster: no benchmark.",
    "- **predicted** is the number of workers that every experiment uses by default; it follows from the calls of the "
    "plan.",
]
