"""The tables of cells: in report.md the figures that answer the question, in cells.md every figure of every cell."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import pandas as pd

from experiments.reports import engine_titles as engines
from experiments.reports import sections
from experiments.reports.labels import Settings, column_title, unusual, value_of
from experiments.reports.markdown import ABSENT, count, line, number, table
from experiments.reports.published import Figures, figures_for
from experiments.reports.sections import Row, records
from experiments.spec.experiment import Cell, local_of
from experiments.store.samples import cell_of


def _overlaps(row: Row) -> bool:
    return row["concurrency"] > 1 or bool(row["load"] == row["load"] and row["load"])


SHOWN: Mapping[str, Callable[[Row], bool]] = {
    **dict.fromkeys(("Mean (s)", "Std Dev (s)", "x / Local", "95 % interval"), lambda row: True),
    "Outside the stages (s)": lambda row: not math.isnan(row["outside_seconds"]),
    **dict.fromkeys(("Messages", "Payload (MB)"), lambda row: row["messages"] > 0),
    **dict.fromkeys(("Wire (MB)", "Wire / payload"), lambda row: row["wire_bytes"] > 0),
    **dict.fromkeys(("Throughput (1/s)", "Throughput x Local"), _overlaps),
    **dict.fromkeys(("Median (s)", "p95 (s)", "p99 (s)"), sections.loaded),
    **dict.fromkeys(("Offered (1/s)", "Goodput (1/s)", "Missed (%)"), sections.loaded),
}
"""Figure of report.md -> whether it is informative for a row; cells.md has all figures."""

PUBLISHED: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("Published mean (s)", lambda figures: number(figures.mean)),
    ("Published std dev (s)", lambda figures: number(figures.std, 4)),
    ("Published x / Local", lambda figures: sections.ratio(figures.ratio)),
)
MOST = 3
"""Up to this many ways to split and execute the model each have a table in the source document's shape; more ways share
one table."""


def brief(summary: pd.DataFrame, titles: engines.Titles) -> list[str]:
    """The tables of report.md, with the settings that all cells share above, and the names of cuts and links below."""
    if summary.empty:
        return []
    rows = {cell_of(row): row for row in records(summary)}
    settings = Settings(list(rows), titles)
    groups = _groups(rows)
    made = [_group(key, cells, rows, settings) for key, cells in groups.items()]
    if len(groups) > MOST:
        made = [["## Times", "", *_by_row(rows, settings)]]
    constant = [f"All cells: {line(settings.constant)}."] if settings.constant else []
    legend = [f"- {line(text)}" for text in settings.legend()]
    return "\n\n".join("\n".join(part) for part in [constant, *made, legend] if part).splitlines()


def _groups(rows: Mapping[Cell, Row]) -> dict[Cell, list[Cell]]:
    """The cells by how the model is split and executed. A local model with which cells are compared has no group."""
    compared = {local_of(cell) for cell in rows if cell != local_of(cell)}
    found: dict[Cell, list[Cell]] = {}
    for cell in (cell for cell in rows if cell not in compared):
        found.setdefault(replace(cell, transport="none", codec=Cell.codec), []).append(cell)
    return found


def _group(key: Cell, cells: Sequence[Cell], rows: Mapping[Cell, Row], settings: Settings) -> list[str]:
    """A column for the local model, then a column for each cell."""
    local = local_of(key)
    columns = [cell for cell in dict.fromkeys([local, *cells]) if cell in rows]
    header = [_counted([rows[cell] for cell in columns])]
    header += ["Local" if cell == local else column_title(cell) for cell in columns]
    body = [[label, *(write(rows[cell]) for cell in columns)] for label, write in _shown([rows[c] for c in columns])]
    body += _published_rows([figures_for(cell, key) for cell in columns])
    title = line(settings.title(key)) or "Times"
    return [f"## {title[0].upper()}{title[1:]}", "", *table(header, body)]


def _by_row(rows: Mapping[Cell, Row], settings: Settings) -> list[str]:
    """A row for each cell."""
    shown = _shown(list(rows.values()))
    body = [[line(settings.label(cell)), *(write(row) for _, write in shown)] for cell, row in rows.items()]
    return table([_counted(list(rows.values())), *(label for label, _ in shown)], body)


def _shown(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    return [(name, write) for name, write in sections.FIGURES if name in SHOWN and any(map(SHOWN[name], rows))]


def _counted(rows: Sequence[Row]) -> str:
    runs = sorted({int(row["n"]) for row in rows})
    return f"Data on {' to '.join(str(n) for n in dict.fromkeys([runs[0], runs[-1]]))} runs"


def _published_rows(figures: Sequence[Figures | None]) -> list[list[str]]:
    """The document's figures, if it has any for these cells besides the local model's."""
    if not any(found and found.ratio != 1 for found in figures):
        return []
    return [[label, *(write(found) if found else ABSENT for found in figures)] for label, write in PUBLISHED]


def full(summary: pd.DataFrame, titles: engines.Titles) -> list[str]:
    """The table of cells.md: a row for each cell, with all its settings and figures; empty without cells."""
    if summary.empty:
        return []
    settings = ["Transport", "Mode", "Flow", "Engine", "Codec", "Batch", "Servers", "Other settings"]
    shown = sections.figures(records(summary))
    header = [*settings, "n", *(label for label, _ in shown), "Connections", "Lookups", "Deviation"]
    body = [_full_row(cell_of(row), row, titles, [write(row) for _, write in shown]) for row in records(summary)]
    return ["## Every cell", "", *table(header, body, left=len(settings))]


def _full_row(cell: Cell, row: Row, titles: engines.Titles, figures: Sequence[str]) -> list[str]:
    engine = engines.named(cell.engine, titles)
    flow, codec = value_of(cell, "flow"), value_of(cell, "codec")
    settings = [cell.transport, cell.mode, flow, engine, codec, str(cell.batch), str(cell.servers)]
    other = ", ".join(map(line, unusual(cell))) or "default"
    counts = [count(row["connects"]), count(row["lookups"])]
    deviation = ABSENT if math.isnan(row["deviation"]) else f"{row['deviation']:.1e}"
    return [*settings, other, str(row["n"]), *figures, *counts, deviation]
