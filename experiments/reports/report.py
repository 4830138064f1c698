"""The report of an experiment: derive summary.csv, report.md and comparison.svg or links.svg of a results folder.

Reads samples.csv, environment.json and, after kills, faults.csv. The same files give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import pandas as pd

from experiments.reports import charts, explanations, faults, ladder, link_map, machines, sections, steadiness
from experiments.reports import engine_titles as engines
from experiments.reports.labels import Settings
from experiments.reports.markdown import line
from experiments.reports.published import Figures, figures_for
from experiments.spec.experiment import Experiment, local_of
from experiments.spec.settings import from_record
from experiments.store import environment, files, intervals, nodes, samples, statistics
from experiments.store import faults as stored_faults
from experiments.store import ladder as stored_ladder
from experiments.store.files import replace_file
from experiments.store.samples import cell_of
from transports.errors import UsageError


def build(folder: Path) -> Path:
    """Write summary.csv, report.md and, without kills, a picture into `folder`; return the path of the report.

    Raises `UsageError` if `folder` holds no experiment, and `WriteError` if a file cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a folder that an experiment wrote")
    record = environment.read(folder)
    experiment, titles = from_record(record["experiment"]), engines.titles_of(record)
    measured = samples.read(folder)
    summary = summary_of(measured, experiment.seed)
    replace_file(folder / files.SUMMARY, summary.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    if experiment.kill:
        outcome = [faults.section(faults.recoveries(stored_faults.read(folder), measured))]
    else:
        # With several links, the map replaces a table for each cut and link, and a chart with all of them.
        mapped = link_map.section(experiment, measured, folder, titles)
        outcome = [
            steadiness.outcome(experiment, measured, summary),
            mapped or _chart(experiment, summary, folder, titles),
            ladder.section(folder, measured, stored_ladder.read(folder)),
            *([] if mapped else sections.groups(summary, titles)),
            steadiness.same_cells(measured, experiment.seed),
            sections.full_table(summary, titles),
            *machines.sections(record, experiment, nodes.read(folder), summary),
            explanations.how_to_read(experiment, summary, titles, intervals.in_rounds(measured)),
        ]
    parts = [
        [f"# {line(experiment.title) or 'Comparison of distributed inference'}"],
        sections.banner(record, measured.attrs.get("note", "")),
        sections.overview(experiment),
        sections.correctness(record, measured),
        *outcome,
        sections.environment(record, experiment),
    ]
    replace_file(folder / files.REPORT, "\n\n".join("\n".join(part) for part in parts if part) + "\n")
    return folder / files.REPORT


def summary_of(measured: pd.DataFrame, seed: int) -> pd.DataFrame:
    """`statistics.summarise`, with the source document's figures for each cell (NaN if it has none)."""
    summary = statistics.summarise(measured, seed)
    cells = [cell_of(row) for row in sections.records(summary)]
    figures = [figures_for(cell, cell) for cell in cells]
    columns = {f"published_{item.name}": item.name for item in fields(Figures)}
    values = {new: [getattr(found, old, float("nan")) for found in figures] for new, old in columns.items()}
    return summary.assign(**values)


def _chart(experiment: Experiment, summary: pd.DataFrame, folder: Path, titles: Mapping[str, str]) -> list[str]:
    cells = [cell_of(row) for row in sections.records(summary)]
    settings = Settings(cells, titles)
    labels = ["" if cell == local_of(cell) else settings.label(cell) for cell in cells]
    lines = [experiment.title, settings.constant, *settings.legend()]
    title = "\n".join(part for text in lines for part in textwrap.wrap(text, 110))
    description = "Time of a request in each cell, as a multiple of the local model's, with 95 % intervals"
    return sections.picture(folder / files.CHART, description, lambda: charts.comparison(summary, labels, title))
