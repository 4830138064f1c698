"""What came of the kills of an experiment, derived from faults.csv and samples.csv."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.reports.markdown import line, number, table

INCOMPARABLE = (
    "Means, and how many times local they are, are not shown: the outage is in the seconds of a request that its "
    "client repeated, but not in those of one that failed and was begun anew, so that they would compare different "
    "things."
)
"""Why the report of an experiment with a kill has nothing else in it."""


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
