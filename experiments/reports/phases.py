"""The section "Where the time goes": the phases of traced requests, as a table and as a picture by hop."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reports import phase_chart, sections
from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.spec.experiment import Cell
from experiments.store import files
from experiments.store.phases import PHASES, SECONDS, WAIT, means, order
from experiments.store.samples import cell_of

TITLE = "Where the time goes"
DRAWN = "Milliseconds of a request by phase, a bar for each hop of each cell"
CELLS = 12
"""Most cells in the picture."""
WORDS: Mapping[str, str] = {
    "queue": "waited for a worker, a core or its turn",
    "decode": "bytes became tensors",
    "compute": "stages executed",
    "encode": "tensors became bytes",
    "connect": "a connection was made",
    "lookup": "the registry was asked",
    "route": "client and nodes around their stages: fields, inputs, the next hop",
    "wake": "the client's thread had not yet gone on",
    "send": "nobody worked on the request: a message was on its way",
    "other": "what is left",
    "wait": "inputs of a stage waited for others, while other hops worked: no part of the sum",
}


@dataclass(frozen=True)
class Traced:
    """The traced cells of a run: mean seconds per request."""

    cells: Sequence[Cell]
    labels: Sequence[str]
    whole: Mapping[str, Mapping[str, float]]
    """Name of a cell -> phase -> seconds."""
    by_hop: Mapping[tuple[str, str], Mapping[str, float]]
    """(name of a cell, hop) -> phase -> seconds."""

    @classmethod
    def of(cls, phases: pd.DataFrame, summary: pd.DataFrame, titles: Mapping[str, str]) -> Traced:
        found = [cell_of(row) for row in sections.records(summary)]
        names = set(phases["cell"])
        cells = [cell for cell in found if cell.name in names]
        settings = Settings(cells or found, titles)
        labels = [settings.label(cell) for cell in cells]
        return cls(cells, labels, _by_row(means(phases)), _by_row(means(phases, ["hop"])))

    @property
    def shown(self) -> list[str]:
        """The phases that at least one cell has."""
        return [name for name in SECONDS if any(self.whole[cell.name][name] > 0 for cell in self.cells)]

    def hops(self, cell: Cell) -> Mapping[str, Mapping[str, float]]:
        """Hop -> phase -> seconds, the client first."""
        own = {hop: seconds for (name, hop), seconds in self.by_hop.items() if name == cell.name}
        return {hop: own[hop] for hop in sorted(own, key=order)}

    def rows(self) -> tuple[list[str], list[list[str]]]:
        """Head and rows of a table: milliseconds, and the share of the request."""
        header = ["Cell", "Request (ms)", *(f"{_heading(name)} (ms)" for name in self.shown)]
        body = []
        for cell, label in zip(self.cells, self.labels, strict=True):
            seconds = self.whole[cell.name]
            request = sum(seconds[name] for name in PHASES)
            body.append([label, number(1e3 * request, 4), *(_share(seconds[name], request) for name in self.shown)])
        return header, body


def section(phases: pd.DataFrame, summary: pd.DataFrame, folder: Path, titles: Mapping[str, str]) -> list[str]:
    """The section; empty if nothing was traced. Writes the picture."""
    if phases.empty:
        return []
    traced = Traced.of(phases, summary, titles)
    header, body = traced.rows()
    text = "Mean milliseconds of a traced request by phase, and the share of the request. Each moment counts once."
    words = [f"- **{_heading(name)}**: {WORDS[name]}" for name in traced.shown]
    drawn = traced.cells[:CELLS]
    bars = [(label, traced.hops(cell)) for cell, label in zip(drawn, traced.labels, strict=False)]
    return [
        f"## {TITLE}",
        "",
        text,
        "",
        *table(header, [[line(row[0]), *row[1:]] for row in body]),
        "",
        *words,
        *(["", *notes] if (notes := _notes(phases, len(traced.cells))) else []),
        "",
        *sections.picture(folder / files.PHASES_CHART, DRAWN, lambda: phase_chart.draw(bars)),
    ]


def _by_row(means: pd.DataFrame) -> dict[Any, dict[str, float]]:
    return {key: {name: float(row[name]) for name in SECONDS} for key, row in means.to_dict("index").items()}


def _notes(phases: pd.DataFrame, cells: int) -> list[str]:
    """Notes on what makes the figures doubtful, or the picture incomplete."""
    notes = []
    # The number of spans that a process dropped in a block is repeated in each row of the block.
    if dropped := int(phases.groupby(["cell", "block", "hop"])["dropped"].max().sum()):
        notes.append(
            f"> **WARNING**: {dropped} spans were dropped, since a process keeps 65,536 records between two blocks."
        )
    unsure = float(phases["clock_uncertainty"].max())
    if unsure > 0:
        notes.append(
            f"Clocks of other machines are known to within {number(1e3 * unsure, 2)} ms: by so much `send` may be "
            "wrong; each other phase is measured on one clock."
        )
    if cells > CELLS:
        notes.append(f"The picture has the first {CELLS} of {cells} cells; {files.PHASES} has all.")
    return notes


def _heading(name: str) -> str:
    return "Wait for inputs" if name == WAIT else name.capitalize()


def _share(seconds: float, request: float) -> str:
    """`"0.412 (3.1 %)"`."""
    if not seconds or math.isnan(seconds):
        return ABSENT
    return f"{number(1e3 * seconds, 3)} ({100 * seconds / request:.1f} %)"
