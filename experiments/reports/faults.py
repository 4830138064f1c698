"""The outcome of an experiment's kills, derived from faults.csv and samples.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.reports.markdown import line, number, table

EXPLANATION = (
    "A node was killed (SIGKILL) before a request of each cell, and another node was started in its place. The client "
    "made each **failed** request again until it was answered; no other table counts these **failed attempts**. A "
    "**repeated** request was answered by a later attempt of its client. Requests that were in flight at the kill are "
    "included. Times count from the kill. **First answer after**: the first answer to a request that began, or began "
    "again, after the kill. **Undisturbed after**: the last answer to a request that failed or was repeated (0: there "
    "was none)."
)
INCOMPARABLE = (
    "This report shows neither mean times nor ratios to the local model: the time of a repeated request includes the "
    "outage, but the time of a failed request that began again does not, so they cannot be compared."
)


def recoveries(faults: pd.DataFrame, samples: pd.DataFrame) -> list[dict[str, Any]]:
    """For each kill: `cell`, `node`, `request`, and what followed until the end of the cell.

    `failed`: requests that failed after the kill; `attempts`: how often they failed; `repeated`: requests that were
    answered after repeats. Requests in flight at the kill are included. In seconds since the kill: `answered`, the
    first answer to a request that began after the kill; `undisturbed`, the last answer to a failed or repeated request
    (0: none).
    """
    kills = faults[faults["event"] == "kill"]
    return [_recovery(kill, faults, samples) for kill in kills.to_dict("records")]


def _recovery(kill: Any, faults: pd.DataFrame, samples: pd.DataFrame) -> dict[str, Any]:
    failed = _since(kill, faults[faults["event"] == "failed"])
    ended = _since(kill, samples)
    repeated = ended[ended["repeated"] > 0]
    answered = ended[ended["start"] >= kill["start"]]
    disturbed = pd.concat([failed["end"], ended["end"][ended["run"].isin(failed["run"])], repeated["end"]])
    return {
        "cell": kill["cell"],
        "node": kill["what"],
        "request": kill["run"],
        "failed": failed["run"].nunique(),
        "attempts": len(failed),
        "repeated": len(repeated),
        "answered": float(answered["end"].min()) if len(answered) else math.nan,
        "undisturbed": float(disturbed.max()) if len(disturbed) else 0.0,
    }


def _since(kill: Any, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of the kill's cell that ended after it; `end` is in seconds since the kill."""
    own = frame[frame["cell"] == kill["cell"]]
    own = own.assign(end=own["start"] + own["seconds"] - kill["start"])
    since: pd.DataFrame = own[own["end"] >= 0]
    return since


def section(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """The section of report.md about the `recoveries`; empty if no node was killed."""
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
    return ["## Faults", "", EXPLANATION, "", *table(header, body, left=2), "", INCOMPARABLE]
