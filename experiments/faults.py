"""Scripted faults: `--kill NODE@REQUEST` kills a node amid an experiment; what came of it is written down.

The node dies by SIGKILL just before that timed request of each cell, and another is started in its place. A request
that fails meanwhile is written to faults.csv, and made again until it is answered, so that the samples stay as many as
asked for. Columns (units in brackets):
  `cell`, `run` and `start` [s] as in samples.csv, on the same clock; `seconds` [s] until it failed, 0 for a kill;
  `event`, which is `kill` or `failed`; `what`, the node or the kind of error; `text`, the error's.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from cluster.courier import GONE
from cluster.errors import NoServer
from experiments import files, rows
from experiments.kill import Kill
from experiments.markdown import line, number, table
from experiments.specification import Cell
from transports.errors import ResourceExhausted, WireError

__all__ = ["Disruption", "Fault", "read", "recoveries", "section", "writer"]

EXPECTED = (*GONE, NoServer, ResourceExhausted)
"""What may come of a kill: a server is not where it was, nobody holds its stages yet, or the others are full."""
COLUMNS = ("cell", "run", "start", "seconds", "event", "what", "text")
PAUSE = 0.1
"""Seconds after a failed request: who is refused at once must not spin."""


INCOMPARABLE = (
    "Means, and how many times local they are, are not shown: the outage is in the seconds of a request that its "
    "client repeated, but not in those of one that failed and was begun anew, so that they would compare different "
    "things."
)
"""Why the report of an experiment with a kill has nothing else in it."""


@dataclass(frozen=True)
class Fault:
    """A row of faults.csv."""

    cell: Cell
    run: int
    start: float
    seconds: float
    event: str
    what: str
    text: str = ""

    def row(self) -> tuple[str, ...]:
        """The fields of its line, in the order of `COLUMNS`."""
        return tuple(rows.field(getattr(self, name) if name != "cell" else self.cell.name) for name in COLUMNS)


def writer(folder: Path) -> rows.Writer:
    """Makes faults.csv and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.FAULTS, COLUMNS)


class Disruption:
    """Carries out a `Kill` in each cell, and tells the failures that come of it from others."""

    def __init__(
        self, kill: Kill, replace: Callable[[str], None], log: rows.Writer, clock: Callable[[], float], patience: float
    ) -> None:
        """`replace` kills a node and starts another. `clock`: that of the samples' `start`. After `patience` seconds
        without a recovery a failure is one."""
        self._kill = kill
        self._replace = replace
        self._log = log
        self._clock = clock
        self._patience = patience
        self._killed: dict[Cell, float] = {}
        self._lock = threading.Lock()

    def before(self, cell: Cell, run: int) -> None:
        """What is to happen before that request."""
        with self._lock:
            if run != self._kill.request or cell in self._killed:
                return
            self._killed[cell] = now = self._clock()
            self._log.append(Fault(cell, run, now, 0.0, "kill", self._kill.name))
            self._replace(self._kill.name)

    def expected(self, cell: Cell, error: WireError) -> bool:
        """Whether a request of `cell` that fails now with `error` may do so because of the kill."""
        return isinstance(error, EXPECTED) and self._clock() - self._killed.get(cell, -math.inf) < self._patience

    def failed(self, cell: Cell, run: int, start: float, error: WireError) -> None:
        """Write down that a request begun at `start` failed."""
        seconds = self._clock() - start  # before the lock, which is held as long as a node is being replaced
        with self._lock:
            self._log.append(Fault(cell, run, start, seconds, "failed", error.kind, str(error)))
        time.sleep(PAUSE)


def read(folder: Path) -> pd.DataFrame:
    """The faults of an experiment; no row where nothing was killed. Raises `UsageError` for another file."""
    path = folder / files.FAULTS
    frame = rows.read(path, COLUMNS) if path.exists() else pd.DataFrame(columns=list(COLUMNS), dtype=str)
    frame["run"] = rows.numbers(frame["run"], path, whole=True)
    for column in ("start", "seconds"):
        frame[column] = rows.numbers(frame[column], path)
    return frame


def recoveries(faults: pd.DataFrame, samples: pd.DataFrame) -> list[dict[str, Any]]:
    """For each kill: `cell`, `node`, `request`, and what came of it until the cell's end.

    `failed`: requests that failed after it, and `attempts`: how often they did. `repeated`: requests that were answered
    after repeats. Those count that were under way at the kill as well. Seconds since the kill: `answered`, when a
    request that was begun after it was first answered; `undisturbed`, when the last of those that failed or were
    repeated was answered (0: there was none).
    """
    kills = faults[faults["event"] == "kill"]
    return [_recovery(kill, faults, samples) for kill in kills.to_dict("records")]


def _recovery(kill: Any, faults: pd.DataFrame, samples: pd.DataFrame) -> dict[str, Any]:
    failed = _since(kill, faults[faults["event"] == "failed"])
    ended = _since(kill, samples)
    repeated = ended[ended["repeated"] > 0]
    answered = ended[ended["start"] >= kill["start"]]
    mended = ended[ended["run"].isin(failed["run"])]
    hurt = pd.concat([failed["end"], mended["end"], repeated["end"]])
    return {
        "cell": kill["cell"],
        "node": kill["what"],
        "request": kill["run"],
        "failed": failed["run"].nunique(),
        "attempts": len(failed),
        "repeated": len(repeated),
        "answered": float(answered["end"].min()) if len(answered) else math.nan,
        "undisturbed": float(hurt.max()) if len(hurt) else 0.0,
    }


def _since(kill: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the kill's cell that ended after it, with `end`, in seconds since then."""
    own = frame[frame["cell"] == kill["cell"]]
    own = own.assign(end=own["start"] + own["seconds"] - kill["start"])
    since: pd.DataFrame = own[own["end"] >= 0]
    return since


def section(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section of report.md about what `recoveries` found: nothing where nothing was killed."""
    if not found:
        return []
    counted = ("Failed", "Failed attempts", "Repeated")
    header = ["Cell", "Killed", "Before request", *counted, "First answer after (s)", "Undisturbed after (s)"]
    body = [
        [
            *(line(str(kill[name])) for name in ("cell", "node", "request", "failed", "attempts", "repeated")),
            *(number(kill[name], 3) for name in ("answered", "undisturbed")),
        ]
        for kill in found
    ]
    text = (
        "A node was killed (SIGKILL) before a request of each cell, and another was started in its place. **Failed** "
        "requests were made again until they were answered; their **failed attempts** are in no other table. "
        "**Repeated** ones were answered by a later attempt of their client. Both count from those on that were under "
        "way at the kill. Times count from the kill. **First answer after**: until the first answer to a request that "
        "was begun, or begun anew, after it. **Undisturbed after**: until the last of the requests that failed or "
        "were repeated was answered (0: there was none)."
    )
    return ["## Faults", "", text, "", *table(header, body, left=2), "", INCOMPARABLE]
