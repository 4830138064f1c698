"""The report of an experiment: derive summary.csv, report.md, report.html and the pictures of a results folder.

Reads samples.csv, environment.json and, after kills, faults.csv. The same files give the same bytes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reports import (
    cell_table,
    charts,
    explanations,
    faults,
    ladder,
    link_map,
    machines,
    sections,
    steadiness,
)
from experiments.reports import engine_titles as engines
from experiments.reports.answer import answer, question
from experiments.reports.html import Page
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

ORDER = (
    *("banner", "overview", "correctness", "faults", "steadiness", "map", "chart", "ladder", "groups", "same", "full"),
    *("hosts", "links", "nodes", "reading", "environment"),
)
"""The sections of report.md; a report has some of them."""
DEFAULT_TITLE = "Comparison of distributed inference"


def build(folder: Path) -> Path:
    """Write summary.csv, report.md, report.html and, without kills, a picture into `folder`.

    Returns the path of report.md. Raises `UsageError` if `folder` holds no experiment, and `WriteError` if a file
    cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a folder that an experiment wrote")
    record = environment.read(folder)
    experiment, titles = from_record(record["experiment"]), engines.titles_of(record)
    measured = samples.read(folder)
    summary = summary_of(measured, experiment.seed)
    replace_file(folder / files.SUMMARY, summary.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    recoveries = faults.recoveries(stored_faults.read(folder), measured) if experiment.kill else []
    parts = {
        "banner": sections.banner(record, measured.attrs.get("note", "")),
        "overview": sections.overview(experiment),
        "correctness": sections.correctness(record, measured),
        **_outcome(experiment, record, measured, summary, recoveries, folder),
        "environment": sections.environment(record, experiment),
    }
    # With several links, the map replaces a table for each cut and link, and a chart with all of them.
    groups = [] if experiment.kill or parts["map"] else sections.groups(summary, titles)
    full = [] if experiment.kill else [sections.full_table(summary, titles)]
    body = {name: [lines] for name, lines in parts.items()} | {"groups": groups, "full": full}
    title = [f"# {line(experiment.title) or DEFAULT_TITLE}"]
    text = "\n\n".join("\n".join(part) for part in [title, *(p for n in ORDER for p in body.get(n, []))] if part)
    replace_file(folder / files.REPORT, text + "\n")
    page = Page(
        title=experiment.title or DEFAULT_TITLE,
        question=question(experiment, titles),
        answer=answer(experiment, measured, summary, titles, record["complete"], recoveries),
        cells="" if experiment.kill else cell_table.table(measured, summary, titles),
        parts=parts,
    )
    replace_file(folder / files.REPORT_HTML, page.text(folder))
    return folder / files.REPORT


def _outcome(
    experiment: Experiment,
    record: Mapping[str, Any],
    measured: pd.DataFrame,
    summary: pd.DataFrame,
    recoveries: Sequence[Mapping[str, Any]],
    folder: Path,
) -> dict[str, list[str]]:
    """The sections between the overview and the environment, by name; writes the pictures that they show."""
    if experiment.kill:
        return {"faults": faults.section(recoveries)}
    titles = engines.titles_of(record)
    mapped = link_map.section(experiment, measured, folder, titles)
    hosts, links, used = machines.sections(record, experiment, nodes.read(folder), summary)
    return {
        "steadiness": steadiness.outcome(experiment, measured, summary),
        "map": mapped,
        "chart": [] if mapped else _chart(experiment, summary, folder, titles),
        "ladder": ladder.section(folder, measured, stored_ladder.read(folder)),
        "same": steadiness.same_cells(measured, experiment.seed),
        "hosts": hosts,
        "links": links,
        "nodes": used,
        "reading": explanations.how_to_read(experiment, summary, titles, intervals.in_rounds(measured)),
    }


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
