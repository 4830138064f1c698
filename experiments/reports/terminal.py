"""The summary as a table for a terminal or a pipe of any width."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

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
}
OPTIONAL = ("std", "x None", "1/s x Local")
"""Figures that a narrow table leaves out, in this order."""


@dataclass(frozen=True)
class SummaryTable:
    """A row per cell. Settings that all cells share are printed above the table, the operations of named cuts below it.

    The table takes the widest of these forms that fits: every figure; fewer figures (a line below names those left
    out); numbered rows, with their settings below. Transport, mean, ratio to local and its interval are always
    there. No word is broken.
    """

    rows: Sequence[Row]
    settings: Settings

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        pointless = {"1/s x Local"} if all(row["concurrency"] == 1 for row in self.rows) else set()
        pointless |= {"x None"} if all(_to_none(row) == ABSENT for row in self.rows) else set()
        figures = [name for name in FIGURES if name not in pointless]
        fewer = [[name for name in figures if name not in OPTIONAL[:count]] for count in range(len(OPTIONAL) + 1)]
        tables = [self._table(shown, numbered) for numbered in (False, True) for shown in fewer]
        forms = [(shown, numbered) for numbered in (False, True) for shown in fewer]
        widths = [Measurement.get(console, options.update(max_width=10_000), table).maximum for table in tables]
        place = next((i for i, width in enumerate(widths) if width <= options.max_width), len(tables) - 1)
        (shown, numbered), table = forms[place], tables[place]
        missing = [name for name in figures if name not in shown]
        above = [self.settings.constant] if self.settings.constant else []
        below = [f"{place}: {self.settings.label(cell)}" for place, cell in self._cells()] if numbered else []
        below += self.settings.legend()
        below += [f"not shown here, but in report.md: {', '.join(missing)}"] if missing else []
        yield from _wrapped(above, options.max_width)
        yield table
        yield from _wrapped(below, options.max_width)

    def _cells(self) -> list[tuple[int, Cell]]:
        return [(place, cell_of(row)) for place, row in enumerate(self.rows, 1)]

    def _table(self, figures: Sequence[str], numbered: bool) -> Table:
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
        names = ["transport"] if numbered else self.settings.differing
        for name in (*(["row"] if numbered else []), *names):
            table.add_column(name.replace("_", "-"), no_wrap=True)
        for name in figures:
            table.add_column(name, justify="right", no_wrap=True)
        for (place, cell), row in zip(self._cells(), self.rows, strict=True):
            local = cell == local_of(cell)
            values = {name: self.settings.value(cell, name) for name in names}
            if local:  # its other settings have no effect
                values = {name: values[name] if name in ("engine", "batch") else "" for name in names}
                values["transport"] = "local"
            shown = [*values.values(), *(FIGURES[name](row) for name in figures)]
            table.add_row(*([str(place)] if numbered else []), *shown)
        return table


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


def _wrapped(lines: Sequence[str], width: int) -> list[Text]:
    parts = [textwrap.wrap(line, width, break_long_words=False, break_on_hyphens=False) for line in lines]
    return [Text(part, no_wrap=True, overflow="ignore") for wrapped in parts for part in wrapped]
