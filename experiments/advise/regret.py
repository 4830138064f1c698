"""The regret of advice: how much longer the advised way takes than the fastest of all that were measured.

regret.csv has a row for each link: `link`, `advised` and `best` (names of cells), `ways` (how many were measured),
`regret` (measured seconds of the advised cell over those of the best, less 1), `low`, `high` (the 95 % interval of the
regret, from a ratio paired by round; it does not account for the choice of the best among many), `equal` (the regret of
the equal split over the transport of the advised cell; empty: it was not measured).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.advise.measured import Measured
from experiments.reports.labels import transport_title
from experiments.reports.markdown import number
from experiments.store import files, rows
from experiments.store.intervals import seconds_of
from experiments.store.profile import Record
from experiments.store.statistics import ratio_of
from partitioning import command_line

COLUMNS = ("link", "advised", "best", "ways", "regret", "low", "high", "equal")


@dataclass(frozen=True)
class Regret:
    """The regret of the advice for one link: a row of regret.csv."""

    link: str
    advised: Measured
    predicted: float
    """Predicted seconds of the advised cell."""
    best: Measured
    ways: int
    value: float
    low: float
    high: float
    equal: float

    def row(self) -> dict[str, Any]:
        return vars(self) | {
            "advised": self.advised.cell.name,
            "best": self.best.cell.name,
            "regret": self.value,
        }


def links_of(cells: Sequence[Measured]) -> list[str]:
    """The links of the cells, each once; an empty text if no cell has one."""
    return list(dict.fromkeys(item.cell.link for item in cells if item.cell.link)) or [""]


def regret_of(link: str, cells: Sequence[Measured], predicted: Sequence[float], seed: int) -> Regret:
    """The regret of the cell with the least predicted seconds among those measured over the link.

    Cells without a link, on the host of the client alone, count as measured over every link.
    """
    there = _ways([(item, value) for item, value in zip(cells, predicted, strict=True) if item.cell.link in ("", link)])
    cells = [item for item, _ in there]
    (advised, expected), best = min(there, key=lambda pair: pair[1]), min(cells, key=_seconds)
    ratio, low, high = _ratio(advised, best, seed)
    alike = [item for item in cells if item.cell.cut == "equal" and item.cell.mode == "submodel"]
    equal = min((item for item in alike if item.cell.transport == advised.cell.transport), key=_seconds, default=None)
    split = _ratio(equal, best, seed)[0] - 1 if equal else math.nan
    return Regret(link, advised, expected, best, len(cells), ratio - 1, low - 1, high - 1, split)


def _ways(found: Sequence[tuple[Measured, float]]) -> list[tuple[Measured, float]]:
    """The cells, with all cells on the host of the client alone merged to one: nothing crosses a link there, so each
    transport measures the same way again."""
    alone: dict[bool, list[tuple[Measured, float]]] = {True: [], False: []}
    for item, value in found:
        alone[item.placed.hosts == (item.model.client,)].append((item, value))
    if len(alone[True]) < 2:
        return list(found)
    first, value = min(alone[True], key=lambda pair: pair[1])
    pooled = replace(first, samples=pd.concat([item.samples for item, _ in alone[True]]))
    return [*alone[False], (pooled, value)]


def _seconds(item: Measured) -> float:
    return item.seconds


def _ratio(item: Measured, base: Measured, seed: int) -> tuple[float, float, float]:
    return ratio_of(item.cell, base.cell, seconds_of(item.samples), seconds_of(base.samples), seed)


def write(folder: Path, found: Iterable[Regret]) -> None:
    """Write regret.csv."""
    with rows.Writer(folder / files.REGRET, COLUMNS) as writer:
        for item in found:
            writer.append(Record(item.row()))


def show(found: Iterable[Regret]) -> None:
    """Print the table."""
    console = command_line.console()
    if not console.is_terminal:  # a pipe has no width
        console = command_line.console(width=160)
    made = Table(box=SIMPLE_HEAD, title="Regret of the advice")
    for heading in (
        "link",
        "advised",
        "predicted",
        "measured",
        "fastest measured",
        "ms",
        "regret",
        "95 %",
        "equal split",
    ):
        made.add_column(heading, justify="left" if heading in ("link", "advised", "fastest measured") else "right")
    for item in found:
        made.add_row(
            item.link or "none",
            _name(item.advised),
            *(number(1e3 * value, 4) for value in (item.predicted, item.advised.seconds)),
            _name(item.best),
            number(1e3 * item.best.seconds, 4),
            f"{100 * item.value:.2g} %",
            f"{100 * item.low:.2g} to {100 * item.high:.2g} %" if math.isfinite(item.low) else "-",
            f"{100 * item.equal:.3g} %" if math.isfinite(item.equal) else "-",
        )
    console.print(made)


def _name(item: Measured) -> str:
    cell = item.cell
    where = f"whole on {item.placed.hosts[0]}" if cell.mode == "whole" else f"cut {cell.cut} on {cell.on or 'servers'}"
    return f"{where}, {transport_title(cell.transport)}"
