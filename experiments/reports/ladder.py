"""The section about a ladder: the steps from a local model to a request over a transport, and the unexplained rest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from experiments.reports import charts, sections
from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, number, table
from experiments.spec.experiment import Cell, local_of
from experiments.store import files
from experiments.store.statistics import chain_of, groups_of, none_of

PIECES: Mapping[str, str] = {
    "local model": "the whole model, called directly",
    "cut": "the stages in a row in one process, less the local model",
    "nodes": "None, less the stages in a row: client, registry and nodes, called directly",
    "sockets": "the bytes of the request's messages and answers over plain TCP sockets",
    "library": "the same bytes over the transport's library alone, less sockets",
    "transport": "the same bytes over this project's transport, less its library (or sockets, without a library)",
    "chain": "the request with stages that compute nothing, less the same over None and less its bytes over this "
    "project's transport",
    "processes": "the stages in processes of their own behind plain sockets, less the same with stages that compute "
    "nothing and less the stages in a row",
    "not explained": "the request over the transport, less all of these",
}
DRAWN = "The steps of a request in milliseconds, a bar for each cell"


@dataclass(frozen=True)
class Ladder:
    """The pieces of the mean seconds of a cell's requests; a piece that was not measured is left out."""

    cell: Cell
    pieces: Mapping[str, float]

    @property
    def seconds(self) -> float:
        return sum(self.pieces.values())

    @property
    def beside_library(self) -> float:
        """The request's seconds less the seconds over the transport `none` (local model, cut and nodes), as a multiple
        of the seconds of the library alone (of sockets, without a library)."""
        pieces = self.pieces
        none = pieces["local model"] + pieces["cut"] + pieces["nodes"]
        return (self.seconds - none) / (pieces["sockets"] + pieces.get("library", 0.0))


def ladders(measured: pd.DataFrame, steps: pd.DataFrame) -> list[Ladder]:
    """A ladder for each cell in `steps` that was measured with its local model and None; means over common rounds."""
    groups = groups_of(measured)
    found = []
    for cell in groups:
        own = steps[steps["cell"] == cell.name]
        if own.empty or not {local_of(cell), none_of(cell)} <= groups.keys():
            continue
        cells = {"local": groups[local_of(cell)], "none": groups[none_of(cell)], "request": groups[cell]}
        if chain_of(cell) in groups:
            cells["chain"] = groups[chain_of(cell)]
        parts: dict[str, pd.DataFrame] = cells | {str(rung): group for rung, group in own.groupby("rung")}
        rounds = set.intersection(*({*part["round"]} for part in parts.values()))
        mean: dict[str, float] = {
            str(name): float(part[part["round"].isin(rounds)]["seconds"].mean()) for name, part in parts.items()
        }
        lower = mean.get("library", mean["sockets"])
        pieces: dict[str, float] = {
            "local model": mean["local"],
            "cut": mean["row"] - mean["local"],
            "nodes": mean["none"] - mean["row"],
            "sockets": mean["sockets"],
            "library": mean.get("library", math.nan) - mean["sockets"],
            "transport": mean["transport"] - lower,
            "chain": mean.get("empty", math.nan) - mean.get("empty none", math.nan) - mean["transport"],
            "processes": mean.get("chain", math.nan) - mean.get("empty chain", math.nan) - mean["row"],
        }
        pieces = {name: seconds for name, seconds in pieces.items() if not math.isnan(seconds)}
        found.append(Ladder(cell, pieces | {"not explained": mean["request"] - sum(pieces.values())}))
    return found


def section(folder: Path, measured: pd.DataFrame, steps: pd.DataFrame) -> list[str]:
    """The section of report.md, with its chart; empty without steps."""
    found = ladders(measured, steps)
    if not found:
        return []
    settings = Settings([ladder.cell for ladder in found])
    labels = [settings.label(ladder.cell) for ladder in found]
    milliseconds = [{name: 1e3 * seconds for name, seconds in ladder.pieces.items()} for ladder in found]
    return [
        "## Ladder",
        "",
        f"Where the milliseconds of a request go ({settings.constant}), as means over the rounds, and their share.",
        "",
        *sections.picture(folder / files.LADDER_CHART, DRAWN, lambda: charts.steps(milliseconds, labels)),
        "",
        *steps_table(found, labels),
        "",
        *(f"- **{name}**: {text}." for name, text in PIECES.items()),
        "",
        "The bytes cross one after the other in an echo of another process, and half of each echo counts. **Chain** is "
        "what a chain of processes adds to such echoes: each process and thread waits until it is woken, and finds the "
        "caches emptied by the others. **Processes** are stages that run slower in processes of their own, since these "
        "take caches from each other. **Not explained** includes messages of a request that overlap, and waits for a "
        "core. **Less None, / library** is the request less None (local model, cut and nodes), as a multiple of "
        "sockets and library.",
    ]


def steps_table(found: Sequence[Ladder], labels: Sequence[str]) -> list[str]:
    """A row for each step and a column for each of `found`: milliseconds, and their share of the request."""
    body = [[name, *(_piece(ladder, name) for ladder in found)] for name in PIECES]
    body.append(["request", *(f"{number(1e3 * ladder.seconds, 4)} (100 %)" for ladder in found)])
    body.append(["less None, / library", *(number(ladder.beside_library, 3) for ladder in found)])
    return table(["Step (ms)", *labels], body)


def _piece(ladder: Ladder, name: str) -> str:
    seconds = ladder.pieces.get(name)
    return ABSENT if seconds is None else f"{number(1e3 * seconds, 4)} ({100 * seconds / ladder.seconds:.1f} %)"
