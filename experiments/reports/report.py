"""`python -m experiments.report FOLDER`: summary.csv, report.md and comparison.svg, from what the run left there.

Reads samples.csv, environment.json and (where a node was killed) faults.csv, and nothing else: whoever has these files
gets the same bytes.
"""

from __future__ import annotations

import argparse
import logging
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.reports import charts, faults, sections
from experiments.reports import engine_titles as engines
from experiments.reports.markdown import ABSENT, line, number
from experiments.reports.published import Figures, figures_for
from experiments.spec.experiment import CELL_FIELDS, Experiment, local_of
from experiments.spec.settings import from_record
from experiments.store import environment, files, samples, statistics
from experiments.store import faults as stored_faults
from experiments.store.files import WriteError, replace_file
from experiments.store.samples import cell_of
from experiments.store.statistics import none_of
from transports.errors import UsageError


def build(folder: Path) -> Path:
    """Write summary.csv, comparison.svg (but for a `kill`) and report.md into `folder`; the path of the report.

    Raises `UsageError` where `folder` holds no experiment, and `WriteError` where a file could not be written.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a folder that an experiment has written")
    record = environment.read(folder)
    measured = samples.read(folder)
    summary = summary_of(measured, from_record(record["experiment"]).seed)
    replace_file(folder / files.SUMMARY, summary.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    replace_file(folder / files.REPORT, _text(folder, record, measured, summary))
    return folder / files.REPORT


def summary_of(measured: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`statistics.summarise`, and beside each cell what the source document published for it (NaN where nothing)."""
    summary = statistics.summarise(measured, seed)
    figures = [_published(row) for row in _rows(summary)]
    columns = {f"published_{item.name}": item.name for item in fields(Figures)}
    values = {new: [getattr(found, old, float("nan")) for found in figures] for new, old in columns.items()}
    return summary.assign(**values)


def render_table(summary: pd.DataFrame, titles: Mapping[str, str] = {}) -> Table:
    """The summary for a terminal: a row per cell, named by the settings in which the cells other than local differ.

    `titles`: what an engine is called that ran in model servers; it is shown in any case.
    """
    others = summary.loc[pd.Series([not _is_local(row) for row in _rows(summary)], dtype=bool)]
    # The kind of a model server is never left to be guessed, be it the same in all rows.
    served = {"engine"} if titles.keys() & set(others["engine"]) else set()
    shown = [name for name in CELL_FIELDS[2:] if others[name].nunique() > 1 or name in served]
    settings = ["transport", "mode", *shown]
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in settings:
        table.add_column(name.replace("_", "-"), no_wrap=name == "transport", overflow="fold")
    for name in ("mean", "std", "x Local", "95 %", "x None"):
        table.add_column(name, justify="right", no_wrap=True, min_width=len(name))
    overlapping = bool((summary["concurrency"] > 1).any())
    if overlapping:
        table.add_column("1/s x Local", justify="right")
    for row in _rows(summary):
        throughput = [number(row["throughput_to_local"], 3)] if overlapping else []
        table.add_row(*(titles.get(row[name], str(row[name])) for name in settings), *_terminal_row(row), *throughput)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """The command line: 0 when the report was written, 1 when it could not be, 2 when there is nothing to report."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        arguments = _parser().parse_args(argv)
        print(build(Path(arguments.folder)))
        return 0
    except (UsageError, WriteError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, UsageError) else 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m experiments.report",
        description="Rebuild summary.csv, report.md and comparison.svg from samples.csv and environment.json.",
    )
    parser.add_argument("folder", metavar="FOLDER", help="a results folder, for example results/reference/seed-layer")
    return parser


def _draw(summary: pd.DataFrame, folder: Path, titles: Mapping[str, str]) -> str:
    """Draw the chart; what is missing for it, if anything."""
    names = [_label(row, titles) for row in _rows(summary)]
    try:
        chart = charts.comparison(summary.assign(cell=names))
    except ModuleNotFoundError as error:
        return str(error.name)
    if chart:
        replace_file(folder / files.CHART, chart)
    return "" if chart else "a ratio to draw"


def _text(folder: Path, record: Mapping[str, Any], measured: pd.DataFrame, summary: pd.DataFrame) -> str:
    """The report. Whatever compares cells is left out where a kill hit them; else the chart is drawn as well."""
    experiment, titles = from_record(record["experiment"]), engines.titles_of(record)
    parts = [
        [f"# {line(experiment.title) or 'Comparison of distributed inference'}"],
        sections.banner(record, measured.attrs.get("note", "")),
        sections.overview(experiment),
        *(_disrupted(folder, measured) if experiment.kill else _compared(folder, experiment, summary, titles)),
        sections.environment(record, experiment),
    ]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _disrupted(folder: Path, measured: pd.DataFrame) -> list[list[str]]:
    """The section about what came of the kills."""
    return [faults.section(faults.recoveries(stored_faults.read(folder), measured))]


def _compared(
    folder: Path, experiment: Experiment, summary: pd.DataFrame, titles: Mapping[str, str]
) -> list[list[str]]:
    """The sections that compare cells, the first of them with the chart, which is drawn."""
    return [
        sections.chart(_draw(summary, folder, titles)),
        *sections.groups(summary, titles),
        sections.full_table(summary, titles),
        sections.how_to_read(experiment, summary, titles),
    ]


def _label(row: Mapping[str, Any], titles: Mapping[str, str]) -> str:
    """The name of a cell in the chart: with what served it, and without the operations at which it is cut."""
    served = row["cell"].replace(f"/{row['engine']}/", f"/{titles.get(row['engine'], row['engine'])}/")
    return re.sub(r"cut=[^/]*\+[^/]*", "cut=named", served)


def _published(row: Mapping[str, Any]) -> Figures | None:
    cell = cell_of(row)
    return figures_for(cell, cell)


def _rows(summary: pd.DataFrame) -> Iterator[dict[str, Any]]:
    for row in summary.to_dict("records"):
        yield {str(key): value for key, value in row.items()}


def _is_local(row: Mapping[str, Any]) -> bool:
    return cell_of(row) == local_of(cell_of(row))


def _terminal_row(row: Mapping[str, Any]) -> list[str]:
    unsure = _is_local(row) or math.isnan(row["ratio_low"])
    ratios = [
        number(row["ratio_to_local"], 4),
        ABSENT if unsure else f"{number(row['ratio_low'], 3)}-{number(row['ratio_high'], 3)}",
        ABSENT if cell_of(row) == none_of(cell_of(row)) else number(row["ratio_to_none"], 4),
    ]
    return [number(row["mean"], 4), number(row["std"], 2), *ratios]


if __name__ == "__main__":
    sys.exit(main())
