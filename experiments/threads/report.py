"""What `experiments.threads --out` writes: threads.csv, a row for each request, and the report.md derived from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cluster.flows import FLOWS
from experiments.reports import sections
from experiments.reports.labels import transport_title
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.store import environment, files, rows
from transports.errors import UsageError

COLUMNS = ("workers", "flow", "outcome", "seconds")
KIND = "threads"


@dataclass(frozen=True)
class Chain:
    """What is asked: `depth` small layers, dealt to the servers in turn, and a deadline of `timeout` seconds."""

    transport: str
    depth: int
    servers: int
    timeout: float
    when_full: str
    """What a server does with a call that no worker is free for: let it `wait`, or `refuse` it."""

    def record(self) -> dict[str, Any]:
        """For environment.json."""
        return asdict(self) | {"kind": KIND}


@dataclass(frozen=True)
class Outcome:
    """What one request met: `completes`, `blocks` (until its deadline) or `refused`, and the seconds that it took."""

    workers: int
    flow: str
    outcome: str
    seconds: float

    def row(self) -> Mapping[str, Any]:
        return vars(self)


def observed_minimum(outcomes: Sequence[Outcome], flow: str) -> int | None:
    """The fewest workers with which the flow completes; `None` where it never does."""
    return min((item.workers for item in outcomes if item.flow == flow and item.outcome == "completes"), default=None)


def grid(needed: int | None, outcomes: Sequence[Outcome]) -> list[list[str]]:
    """A row for each number of workers, and in it a text for each flow; `needed` is the predicted minimum."""
    found = {(item.workers, item.flow): f"{item.outcome} {number(item.seconds, 3)} s" for item in outcomes}
    made = []
    for workers in sorted({item.workers for item in outcomes}):
        head = f"{workers}{' (predicted)' if workers == needed else ''}"
        made.append([head, *(found.get((workers, flow), ABSENT) for flow in FLOWS)])
    return made


def build(folder: Path) -> Path:
    """Write report.md into `folder`, and return its path.

    Raises `UsageError` where `folder` holds no such results, and `WriteError` where the file could not be written.
    """
    record = environment.read(folder)
    if record["experiment"].get("kind") != KIND:
        raise UsageError(f"{folder} holds another experiment; give one that python -m experiments.threads has written")
    files.replace_file(folder / files.REPORT, _text(record, _read(folder / files.THREADS)))
    return folder / files.REPORT


def _read(path: Path) -> list[Outcome]:
    frame = rows.read(path, COLUMNS)
    workers = rows.numbers(frame["workers"], path, positive=True, whole=True)
    seconds = rows.numbers(frame["seconds"], path, positive=True)
    return [Outcome(*values) for values in zip(workers, frame["flow"], frame["outcome"], seconds, strict=True)]


def _text(record: Mapping[str, Any], outcomes: Sequence[Outcome]) -> str:
    needed = record.get("predicted")
    parts = [
        ["# Threads that wait for each other"],
        sections.banner(record, ""),
        [_asked(record["experiment"])],
        _outcomes(needed, outcomes) if outcomes else ["Nothing was asked."],
        HOW_TO_READ,
        sections.machine(record, {}),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _asked(chain: Mapping[str, Any]) -> str:
    return (
        f"What one request met in each flow: a chain of {chain['depth']} layers dealt to {chain['servers']} servers in "
        f"turn, over {transport_title(chain['transport'])}, a deadline of {chain['timeout']:g} s, and servers "
        f"that {WHEN_FULL[chain['when_full']]}."
    )


def table_of(folder: Path) -> list[str]:
    """The table in the report of `folder`. Raises `UsageError` where it holds none."""
    return _table(environment.read(folder).get("predicted"), _read(folder / files.THREADS))


def _table(needed: int | None, outcomes: Sequence[Outcome]) -> list[str]:
    body = [[line(cell) for cell in row] for row in grid(needed, outcomes)]
    return table(["Workers of each server", *FLOWS], body)


def _outcomes(needed: int | None, outcomes: Sequence[Outcome]) -> list[str]:
    observed = observed_minimum(outcomes, "nested")
    minimum = f"Workers that nested calls need: predicted {needed or ABSENT}, observed {observed or ABSENT}."
    return [*_table(needed, outcomes), "", minimum]


WHEN_FULL = {"wait": "let a call wait until a worker is free", "refuse": "refuse a call that no worker is free for"}
HOW_TO_READ = [
    "## How to read this",
    "",
    "- **completes**: an answer came. **blocks**: none came until the deadline. **refused**: a server had no worker "
    "left and said so. The seconds are those of one request, the first of its cluster: they are no benchmark.",
    "- **predicted** is the number that every experiment takes by itself, from a walk over the calls of its plan.",
]
