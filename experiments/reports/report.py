"""The report of an experiment: derive summary.csv, report.md, cells.md, report.html and pictures of a folder.

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
    compression,
    depth,
    distributions,
    explanations,
    faults,
    ladder,
    link_map,
    loads,
    machines,
    pareto,
    phases,
    sections,
    steadiness,
    tables,
    topology,
)
from experiments.reports import engine_titles as engines
from experiments.reports.answer import answer, question
from experiments.reports.html import Page
from experiments.reports.labels import Settings
from experiments.reports.markdown import text
from experiments.reports.published import Figures, figures_for
from experiments.spec.experiment import Experiment, local_of
from experiments.spec.settings import from_record
from experiments.store import environment, files, intervals, nodes, samples, statistics
from experiments.store import faults as stored_faults
from experiments.store import ladder as stored_ladder
from experiments.store import phases as stored_phases
from experiments.store.files import replace_file
from experiments.store.samples import cell_of
from transports.errors import UsageError

ORDER = (
    *("banner", "question", "answer", "tables", "faults", "map", "compression", "chart", "load", "pareto", "phases"),
    *("ladder", "same", "hosts", "links", "notes", "more"),
)
"""The sections of report.md; a report has some of them."""
DETAILS = ("full", "nodes", "reading", "environment")
"""The sections of cells.md."""
MORE = f"[{files.CELLS}]({files.CELLS}) has every figure of every cell, what each figure means, and the environment."
BESIDE = "Beside the local model"
"""The title of the picture of ratios."""
DEFAULT_TITLE = "Comparison of distributed inference"


def build(folder: Path) -> Path:
    """Write summary.csv, report.md, cells.md, report.html and, without kills, pictures into `folder`.

    Returns the path of report.md. Raises `UsageError` if `folder` holds no experiment, and `WriteError` if a file
    cannot be written.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {str(folder)!r}; give a folder that an experiment wrote")
    record = environment.read(folder)
    experiment, titles = from_record(record["experiment"]), engines.titles_of(record)
    measured = samples.read(folder)
    summary = summary_of(measured, experiment.seed, stored_phases.read(folder))
    replace_file(folder / files.SUMMARY, summary.to_csv(index=False, float_format="%.9g", lineterminator="\n"))
    recoveries = faults.recoveries(stored_faults.read(folder), measured) if experiment.kill else []
    swept = loads.Loads.of(measured, summary, titles, experiment.seed)
    found = _outcome(experiment, record, measured, summary, recoveries, folder, swept)
    banner, notes = sections.noted(
        [
            sections.banner(record, measured.attrs.get("note", "")),
            sections.overview(experiment),
            sections.correctness(record, measured),
            found.pop("steadiness", []),
        ]
    )
    page = Page(
        title=experiment.title or DEFAULT_TITLE,
        question=question(experiment, titles),
        answer=answer(
            experiment, measured, swept.rest(summary), titles, record["complete"], recoveries, swept.answer()
        ),
        cells="" if experiment.kill else cell_table.table(measured, summary, titles),
        parts={"banner": banner, "notes": notes, **found, "environment": sections.environment(record, experiment)},
    )
    # With several links, the map replaces the tables of all cuts and links, and the chart of all cells.
    mapped = experiment.kill or found.get("map")
    details = {**page.parts, "full": [] if experiment.kill else tables.full(summary, titles)}
    replace_file(folder / files.CELLS, text(f"{page.title}: details", [details.get(name, []) for name in DETAILS]))
    brief = [] if mapped else tables.brief(swept.rest(summary), titles)
    return page.write(folder, ORDER, {"tables": brief, "more": [MORE]})


def _outcome(
    experiment: Experiment,
    record: Mapping[str, Any],
    measured: pd.DataFrame,
    summary: pd.DataFrame,
    recoveries: Sequence[Mapping[str, Any]],
    folder: Path,
    swept: loads.Loads,
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
        "compression": compression.section(experiment, measured, titles),
        "chart": [] if mapped else _chart(swept.rest(summary), folder, titles),
        "distributions": distributions.section(folder, measured, swept.rest(summary), titles),
        "load": swept.section(folder),
        "pareto": pareto.section(summary, folder, titles),
        "depth": depth.section(folder),
        "topology": topology.section(folder, record, experiment),
        "phases": phases.section(stored_phases.read(folder), summary, folder, titles),
        "ladder": ladder.section(folder, measured, stored_ladder.read(folder)),
        "same": steadiness.same_cells(measured, experiment.seed),
        "hosts": hosts,
        "links": links,
        "nodes": used,
        "reading": explanations.how_to_read(experiment, summary, titles, intervals.in_rounds(measured)),
    }


def summary_of(measured: pd.DataFrame, seed: int, traced: pd.DataFrame = stored_phases.NONE) -> pd.DataFrame:
    """`statistics.summarise`, with the source document's figures for each cell, and the phases of cells in `traced`.

    A cell without such figures has NaN.
    """
    summary = statistics.summarise(measured, seed)
    cells = [cell_of(row) for row in sections.records(summary)]
    figures = [figures_for(cell, cell) for cell in cells]
    columns = {f"published_{item.name}": item.name for item in fields(Figures)}
    values = {new: [getattr(found, old, float("nan")) for found in figures] for new, old in columns.items()}
    return stored_phases.summarised(summary.assign(**values), traced)


def _chart(summary: pd.DataFrame, folder: Path, titles: Mapping[str, str]) -> list[str]:
    cells = [cell_of(row) for row in sections.records(summary)]
    settings = Settings(cells, titles)
    labels = ["" if cell == local_of(cell) else settings.label(cell) for cell in cells]
    lines = [f"{BESIDE}: multiples of its time", settings.constant, *settings.legend()]
    title = "\n".join(part for text in lines for part in textwrap.wrap(text, 110))
    description = "Time of a request in each cell, as a multiple of the local model's, with 95 % intervals"
    drawn = sections.picture(folder / files.CHART, description, lambda: charts.comparison(summary, labels, title))
    return [f"## {BESIDE}", "", *drawn] if drawn else []
