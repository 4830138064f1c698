"""The table of report.html with a row per cell: its figures, and a small picture of its samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.reports import sections
from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, count, number
from experiments.reports.sections import Row, records
from experiments.spec.experiment import Cell
from experiments.store.samples import cell_of
from experiments.store.statistics import groups_of

FIRST = ("x / Local", "95 % interval", "Mean (s)")
"""Figures before the pictures of the samples; the others follow."""
STRIPS, TICKS = 300, 100
"""Pictures are drawn for at most `STRIPS` cells. They show single samples for at most `TICKS` cells."""
WIDTH, HEIGHT = 180, 18
WIDE = 4
"""From this ratio of the largest to the smallest sample on, the axis is logarithmic."""
ORDERED = "x / Local"


@dataclass(frozen=True)
class Axis:
    """Seconds -> a place across a picture; the same for all cells, so that pictures can be compared."""

    low: float
    high: float

    @classmethod
    def of(cls, seconds: pd.Series[float]) -> Axis:
        return cls(float(seconds.min()), float(seconds.max()))

    @property
    def logarithmic(self) -> bool:
        return 0 < self.low * WIDE <= self.high

    def place(self, seconds: npt.ArrayLike) -> npt.NDArray[np.float64]:
        scale = np.log if self.logarithmic else np.asarray
        low, high, values = (np.asarray(scale(value), dtype=np.float64) for value in (self.low, self.high, seconds))
        return np.round(3 + (WIDTH - 6) * (values - low) / (high - low if high > low else 1), 1)

    @property
    def words(self) -> str:
        kind = ", logarithmic" if self.logarithmic else ""
        return f"{number(1e3 * self.low, 3)} to {number(1e3 * self.high, 3)} ms{kind}"


def table(measured: pd.DataFrame, summary: pd.DataFrame, titles: Mapping[str, str]) -> str:
    """The table as HTML, with the constant settings above it; empty without cells. The least x / Local comes first."""
    if summary.empty:
        return ""
    rows = sorted(records(summary), key=_order)
    settings = Settings([cell_of(row) for row in records(summary)], titles)
    columns, axis = _columns(rows), Axis.of(measured["seconds"])
    drawn = len(rows) <= STRIPS
    strips = _strips(measured, axis, len(rows) <= TICKS) if drawn else {}
    body = "\n".join(_row(row, settings, columns, strips) for row in rows)
    shared = f"<p>All cells: {escape(settings.constant)}.</p>\n" if settings.constant else ""
    legend = "".join(f"<li>{escape(text)}</li>" for text in settings.legend())
    caption = "A row per cell. A click on a header sorts."
    if drawn:
        caption += f" Samples: line to p99, box of the quartiles, median; one axis, {axis.words}."
    return (
        f'{shared}<div class="scroll" tabindex="0"><table class="sortable" id="cells">\n'
        f"<caption>{escape(caption)}</caption>\n"
        f"<thead><tr>{_header(columns, drawn)}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
        + (f"\n<ul>{legend}</ul>" if legend else "")
    )


Column = tuple[str, Callable[[Row], str]]


def _columns(rows: Sequence[Row]) -> list[Column]:
    """The figures that at least one cell has."""
    shown = sections.figures(rows)
    first = [column for name in FIRST for column in shown if column[0] == name]
    columns = [*first, *(column for column in shown if column[0] not in FIRST)]
    if any(not math.isnan(row["published_ratio"]) for row in rows):
        columns.append(("Published x / Local", lambda row: number(row["published_ratio"], 4)))
    columns = [
        *columns,
        ("n", lambda row: str(row["n"])),
        ("Connections", lambda row: count(row["connects"])),
        ("Lookups", lambda row: count(row["lookups"])),
        ("Deviation", lambda row: ABSENT if math.isnan(row["deviation"]) else f"{row['deviation']:.1e}"),
    ]
    return [(name, write) for name, write in columns if name == ORDERED or any(write(row) != ABSENT for row in rows)]


def _order(row: Row) -> tuple[bool, float, str]:
    ratio = row["ratio_to_local"]
    return (math.isnan(ratio), 0.0 if math.isnan(ratio) else ratio, row["cell"])


def _header(columns: Sequence[Column], drawn: bool) -> str:
    heads = [_head(name) for name, _ in columns]
    if drawn:
        heads.insert(_place_of_strips(columns), '<th scope="col">Samples</th>')
    return _head("Cell", "text") + "".join(heads)


def _head(name: str, kind: str = "number") -> str:
    order = "ascending" if name == ORDERED else "none"
    return f'<th scope="col" class="{kind}" aria-sort="{order}"><button type="button">{escape(name)}</button></th>'


def _place_of_strips(columns: Sequence[Column]) -> int:
    return sum(name in FIRST for name, _ in columns)


def _row(row: Row, settings: Settings, columns: Sequence[Column], strips: Mapping[Cell, str]) -> str:
    cell = cell_of(row)
    values = [f"<td>{escape(write(row))}</td>" for _, write in columns]
    if strips:
        values.insert(_place_of_strips(columns), f'<td class="strip">{strips[cell]}</td>')
    return f'<tr><th scope="row">{escape(settings.label(cell))}</th>{"".join(values)}</tr>'


def _strips(measured: pd.DataFrame, axis: Axis, ticks: bool) -> dict[Cell, str]:
    return {cell: strip(group["seconds"].to_numpy(), axis, ticks) for cell, group in groups_of(measured).items()}


def strip(seconds: Any, axis: Axis, ticks: bool) -> str:
    """An SVG picture of samples: a line from the least to p99, quartiles, median, and with `ticks` each sample."""
    shown = np.quantile(seconds, [0, 0.25, 0.5, 0.75, 0.99])
    least, lower, middle, upper, most = (f"{value:g}" for value in axis.place(shown))
    words = [number(1e3 * value, 3) for value in shown[1:]]
    text = f"median {words[1]} ms, quartiles {words[0]} and {words[2]} ms, p99 {words[3]} ms"
    each = sorted({round(float(value)) for value in axis.place(seconds)}) if ticks else []
    marks = f'<path class="t" d="{"".join(f"M{place} 1v16" for place in each)}"/>' if each else ""
    width = f"{max(float(upper) - float(lower), 1):g}"
    return (
        f'<svg role="img" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"><title>{text}</title>{marks}'
        f'<path class="w" d="M{least} 9H{most}M{most} 6v6"/>'
        f'<rect x="{lower}" y="4" width="{width}" height="10" rx="1"/>'
        f'<path class="m" d="M{middle} 2v14"/></svg>'
    )
