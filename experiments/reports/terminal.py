"""The summary as a table for a terminal or a pipe of any width."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, number
from experiments.reports.sections import Row, records
from experiments.spec.experiment import Cell, local_of
from experiments.store import files
from experiments.store.loaded import overloaded
from experiments.store.samples import cell_of
from experiments.store.statistics import none_of


def _interval(row: Row) -> str:
    unknown = math.isnan(row["ratio_low"]) or cell_of(row) == local_of(cell_of(row))
    return ABSENT if unknown else f"{number(row['ratio_low'], 3)}-{number(row['ratio_high'], 3)}"


def _to_none(row: Row) -> str:
    return ABSENT if cell_of(row) == none_of(cell_of(row)) else number(row["ratio_to_none"], 4)


FIGURES: Mapping[str, Callable[[Row], str]] = {
    "mean": lambda row: number(row["mean"], 4),
    "std": lambda row: number(row["std"], 2),
    "x Local": lambda row: number(row["ratio_to_local"], 4),
    "95 %": _interval,
    "x None": _to_none,
    "1/s x Local": lambda row: number(row["throughput_to_local"], 3),
    "p50": lambda row: number(row["median"], 3),
    "p99": lambda row: number(row["p99"], 3),
    "goodput": lambda row: number(row["goodput"], 3),
    "missed": lambda row: ABSENT if math.isnan(row["missed_share"]) else f"{100 * row['missed_share']:.3g} %",
}
LOADED = ("p50", "p99", "goodput", "missed")
"""Figures of tables that have cells under an open-loop load."""
OPTIONAL = ("std", "x None", "1/s x Local", "p50", "missed", "goodput", "p99")
"""Figures that a narrow table leaves out, in this order."""


NARROW = 13
"""Characters of a line in the narrowest form of a table, in which texts of several words are folded."""


@dataclass(frozen=True)
class CellTable:
    """A row per cell. Settings that all cells share are printed above the table, the operations of named cuts below it.

    The table takes the widest of these forms that fits: every figure; fewer figures (a line below names those left
    out); numbered rows, with their settings below; the same with figures of several words folded. Transport and the
    figures that are not `optional` are always there. No word is broken.
    """

    cells: Sequence[Cell]
    settings: Settings
    figures: Mapping[str, Sequence[str]]
    """Head of a column -> its text for each cell."""
    optional: Sequence[Sequence[str]]
    """Groups of figures that a narrow table leaves out, in this order."""
    elsewhere: str
    """Where to find the figures that are left out."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        groups = [frozenset(chain(*self.optional[:count])) for count in range(len(self.optional) + 1)]
        fewer = [[name for name in self.figures if name not in left_out] for left_out in groups]
        forms = [(shown, numbered, False) for numbered in (False, True) for shown in fewer]
        forms.append((fewer[-1], True, True))
        tables = [self._table(*form) for form in forms]
        widths = [Measurement.get(console, options.update(max_width=10_000), table).maximum for table in tables]
        place = next((i for i, width in enumerate(widths) if width <= options.max_width), len(tables) - 1)
        (shown, numbered, _), table = forms[place], tables[place]
        missing = [name for name in self.figures if name not in shown]
        above = [self.settings.constant] if self.settings.constant else []
        below = [f"{row}: {self.settings.label(cell)}" for row, cell in enumerate(self.cells, 1)] if numbered else []
        below += self.settings.legend()
        below += [f"not shown here, but in {self.elsewhere}: {', '.join(missing)}"] if missing else []
        yield from wrapped(above, options.max_width)
        yield table
        yield from wrapped(below, options.max_width)

    def _table(self, figures: Sequence[str], numbered: bool, folded: bool) -> Table:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        names = ["transport"] if numbered else self.settings.differing
        for name in (*(["row"] if numbered else []), *names):
            table.add_column(name.replace("_", "-"), no_wrap=True)
        for name in figures:
            table.add_column(name, justify="right", no_wrap=True)
        for place, cell in enumerate(self.cells):
            local = cell == local_of(cell)
            values = {name: self.settings.value(cell, name) for name in names}
            if local:  # its other settings have no effect
                values = {name: values[name] if name in ("engine", "batch") else "" for name in names}
                values["transport"] = "local"
            shown = [self.figures[name][place] for name in figures]
            if folded:
                shown = ["\n".join(textwrap.wrap(text, NARROW, break_long_words=False)) for text in shown]
            table.add_row(*([str(place + 1)] if numbered else []), *values.values(), *shown)
        return table


@dataclass(frozen=True)
class SummaryTable:
    """A summary as a `CellTable`. Mean, ratio to local and its interval are always there."""

    rows: Sequence[Row]
    settings: Settings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        pointless = {"1/s x Local"} if all(row["concurrency"] == 1 for row in self.rows) else set()
        pointless |= {*LOADED} if all(math.isnan(row.get("offered", math.nan)) for row in self.rows) else set()
        pointless |= {"x None"} if all(_to_none(row) == ABSENT for row in self.rows) else set()
        texts = {name: [write(row) for row in self.rows] for name, write in FIGURES.items() if name not in pointless}
        cells = [cell_of(row) for row in self.rows]
        yield CellTable(cells, self.settings, texts, [[name] for name in OPTIONAL], files.CELLS)
        labels = [self.settings.label(cell) for cell, row in zip(cells, self.rows, strict=True) if overloaded(row)]
        yield from wrapped(
            [f"{label}: overloaded: answers take longer and longer" for label in labels], options.max_width
        )


def render_table(summary: pd.DataFrame, titles: Mapping[str, str] = {}) -> SummaryTable:
    """`summary` for `Console.print`. `titles`: names of the engines that ran in model servers."""
    rows = records(summary)
    return SummaryTable(rows, Settings([cell_of(row) for row in rows], titles))


def render_ranking(header: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """The fastest cells over each link (`link_map.ranking`)."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in header:
        table.add_column(name, justify="right" if "(" in name else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def wrapped(lines: Sequence[str], width: int) -> list[Text]:
    """`lines` for a terminal: no word is broken."""
    parts = [textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
    return [Text(part, no_wrap=True, overflow="ignore") for wrapped in parts for part in wrapped]
