"""The section of an experiment with several links: which cut and which transport is fastest over which link."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports import charts, sections
from experiments.reports import engine_titles as engines
from experiments.reports.labels import SILENT, Settings, transport_title
from experiments.reports.markdown import interval, line, number, table
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store import files, intervals
from experiments.store.statistics import groups_of
from partitioning.options import JOINT

FREE = ""
"""The link of cells without a link. They are the same in the column of every link."""


@dataclass(frozen=True)
class LinkMap:
    """The fastest cell of each row (a way to cut and place the model) over each link."""

    rows: Sequence[Cell]
    """Cells without their transport and link; they differ in the other settings."""
    links: Sequence[str]
    best: Mapping[tuple[Cell, str], Cell]
    """Row and link -> the cell with the least mean."""
    groups: Mapping[Cell, pd.DataFrame]

    @classmethod
    def of(cls, experiment: Experiment, measured: pd.DataFrame) -> LinkMap | None:
        """The map, with links and rows in the experiment's order; None unless there are several of both."""
        found = groups_of(measured)
        groups = {cell: found[cell] for cell in experiment.cells if cell in found and cell != local_of(cell)}
        links = list(dict.fromkeys(cell.link for cell in groups if cell.link != FREE))
        means = {cell: float(group["seconds"].mean()) for cell, group in groups.items() if cell.transport != "none"}
        best: dict[tuple[Cell, str], Cell] = {}
        for cell in sorted(means, key=means.__getitem__):
            for link in links if cell.link == FREE else [cell.link]:
                best.setdefault((_row(cell), link), cell)
        rows = [row for row in dict.fromkeys(map(_row, means)) if all((row, link) in best for link in links)]
        return cls(rows, links, best, groups) if len(links) > 1 and len(rows) > 1 else None

    def mean(self, row: Cell, link: str) -> float:
        return float(self.groups[self.best[row, link]]["seconds"].mean())

    def ranked(self, link: str) -> list[Cell]:
        """The rows over a link, the fastest first."""
        return sorted(self.rows, key=lambda row: self.mean(row, link))


@dataclass(frozen=True)
class Winner:
    """The two fastest rows over a link, and the ratio of their means with its interval, paired by round."""

    link: str
    first: Cell
    second: Cell
    cell: Cell
    """The cell of `first` over this link: it has the fastest transport."""
    ratio: float
    low: float
    high: float


def winners(found: LinkMap, seed: int) -> list[Winner]:
    """A winner for each link."""
    won = []
    for link in found.links:
        first, second = found.ranked(link)[:2]
        cells = [found.best[row, link] for row in (first, second)]
        above, below = (intervals.seconds_of(found.groups[cell]) for cell in cells)
        low, high = intervals.ratio_interval(above, below, np.random.default_rng(seed))
        won.append(Winner(link, first, second, cells[0], above.mean / below.mean, low, high))
    return won


HEADER = ("Link", "Fastest", "over", "Mean (ms)", "then", "Mean (ms)", "Fastest / then (95 %)")
"""The columns of `ranking`."""


def section(experiment: Experiment, measured: pd.DataFrame, folder: Path, titles: engines.Titles) -> list[str]:
    """The table and the heat map; empty without several links."""
    found = LinkMap.of(experiment, measured)
    if found is None:
        return []
    settings = Settings(found.rows, titles)
    labels = [place(settings, row) for row in found.rows]
    seconds = [[found.mean(row, link) for link in found.links] for row in found.rows]
    names = [[transport_title(found.best[row, link].transport) for link in found.links] for row in found.rows]
    description = "Time of a request by cut and link, each with its fastest transport, as a multiple of the link's best"
    picture = sections.picture(
        folder / files.LINK_MAP,
        description,
        lambda: charts.heat_map(seconds, names, labels, [short(link) for link in found.links], experiment.title),
    )
    text = (
        "Each row is a way to cut and place the model, with its fastest transport. The last column compares the two "
        "fastest rows: if its interval contains 1, they do not differ beyond noise."
    )
    body = [[line(word) for word in row] for row in ranking(found, settings, experiment.seed)]
    legend = [f"- {line(text)}" for text in settings.legend()]
    return ["## Where to cut over which link", "", text, "", *table(HEADER, body, left=3), "", *picture, "", *legend]


def ranking(found: LinkMap, settings: Settings, seed: int) -> list[list[str]]:
    """A row for each link: the two fastest ways to cut and place the model, and the ratio of their means."""
    rows = []
    for won in winners(found, seed):
        means = [number(1e3 * found.mean(row, won.link), 3) for row in (won.first, won.second)]
        ratio = f"{number(won.ratio, 3)} ({interval(won.low, won.high)})"
        first, second = (place(settings, row) for row in (won.first, won.second))
        over = transport_title(won.cell.transport)
        rows.append([short(won.link), first, over, means[0], second, means[1], ratio])
    return rows


def _row(cell: Cell) -> Cell:
    return replace(cell, transport="grpc", codec=Cell.codec, link=FREE)


def place(settings: Settings, row: Cell) -> str:
    """What distinguishes a row: `"cut 1"`, or `"whole on cloud, wire zstd"`."""
    whole = row.mode == "whole"
    told = ("transport", "mode", "servers", "on", *(["cut"] if whole else []))
    names = [name for name in settings.differing if name not in told]
    names = [name for name in names if name not in SILENT or getattr(row, name) != getattr(Cell, name)]
    where = [f"whole on {row.on}" if row.on else "whole"] if whole else []
    return ", ".join([*where, *(settings.word(row, name) for name in names)]) or row.mode


def short(link: str) -> str:
    """The words of a link, without its ends if all of its parts have the same ends: `"rtt:20ms, bandwidth:50Mbit"`."""
    parts = [re.split(r"\s+", part.strip(), maxsplit=1)[-1] for part in link.split(JOINT.strip())]
    return (parts[0] if len(set(parts)) == 1 else link).replace(",", ", ")
