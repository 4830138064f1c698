"""`python -m tools.docs_tables` fills README.md and docs/ with tables and figures of results. `--check` compares.

A table stands between `<!-- table NAME -->` and `<!-- end of table -->`. `TABLES` maps each NAME to the function that
writes it. Its figures have three digits: the confidence intervals are too wide for more. `docs_figures` has the figures
in sentences.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

import transports
from cluster import runtimes
from experiments.reports import engine_titles as engines
from experiments.reports import faults, ladder, link_map, sections
from experiments.reports.labels import Settings, column_title
from experiments.reports.markdown import ABSENT, interval, number, table
from experiments.reports.sections import Row
from experiments.sizes import report as sizes_report
from experiments.sizes.measure import MB, Study, Way
from experiments.spec.experiment import Cell, local_of
from experiments.spec.settings import from_record
from experiments.store import environment, files, intervals, samples
from experiments.store import faults as stored_faults
from experiments.store import ladder as stored_ladder
from experiments.store.samples import cell_of
from experiments.store.statistics import groups_of
from experiments.threads import report as threads_report
from tools import docs_figures
from tools import docs_studies as studies
from tools.docs_sources import echoes, medians

ROOT = Path(__file__).parents[1]
REFERENCE = ROOT / "results" / "reference"
MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end of table -->)", re.S)

Writer = Callable[[Row], str]
Lines = list[str]

FIGURES: Mapping[str, Writer] = dict(sections.FIGURES) | {
    "Published x / Local": lambda row: number(row["published_ratio"]),
}
TIMES = ("Mean (s)", "Std Dev (s)", "x / Local", "95 % interval")
COMPARED = (*TIMES, "Outside the stages (s)")
SENT = ("Messages", "Payload (MB)")


def fill(text: str) -> str:
    """Return `text` with the current content of every marked table. Raises `KeyError` for a name not in `TABLES`."""
    return MARKED.sub(lambda found: "\n".join([found[1], *TABLES[found[2]](), "", found[3]]), text)


def by_column(folder: str, *more: str, **chosen: object) -> Lines:
    """One column for each cell whose settings match `chosen`, after columns for the local models of these cells."""
    cells = {cell_of(row): row for row in _rows(folder)}
    split = [cell for cell in cells if cell != local_of(cell) and _is(cell, chosen)]
    order = dict.fromkeys([*map(local_of, split), *split])
    flows = len({cell.flow for cell in split}) > 1
    body = [[label, *(_short(FIGURES[label](cells[cell])) for cell in order)] for label in (*COMPARED, *SENT, *more)]
    return table(["", *(_title(cell, flows) for cell in order)], body)


def _title(cell: Cell, flows: bool) -> str:
    if cell == local_of(cell):
        return "Local"
    return column_title(cell) + (f", {cell.flow}" if flows else "")


def by_row(folder: str, *labels: str, against: Mapping[str, object] | None = None) -> Lines:
    """One row per cell. With `against`, a last column compares each with the cell of that flow and those settings."""
    titles = engines.titles_of(environment.read(REFERENCE / folder))
    rows = [row for row in _rows(folder) if cell_of(row) != local_of(cell_of(row))]
    settings: dict[str, Writer] = {
        "Engine": lambda row: engines.named(str(row["engine"]), titles),
        "Over": lambda row: column_title(cell_of(row)),
        "Flow": lambda row: str(row["flow"]),
    }
    figures: dict[str, Writer] = {label: FIGURES[label] for label in labels}
    if against:
        figures[f"x / {' '.join(map(str, against.values()))}, same flow"] = _against(folder, against)
    heads = [[write(row) for write in settings.values()] for row in rows]
    tails = [[_short(write(row)) for write in figures.values()] for row in rows]
    return table([*settings, *figures], [head + tail for head, tail in zip(heads, tails, strict=True)], len(settings))


def _against(folder: str, settings: Mapping[str, object]) -> Writer:
    """Writes the ratio of a cell's mean to the mean of the cell with the same flow and the given settings."""
    groups = groups_of(samples.read(REFERENCE / folder))
    seed = int(environment.read(REFERENCE / folder)["experiment"]["seed"])

    def write(row: Row) -> str:
        cell = cell_of(row)
        wanted = {**settings, "flow": cell.flow}
        found = [other for other in groups if other != local_of(other) and _is(other, wanted)]
        if cell in found or not found:
            return "1" if cell in found else ABSENT
        above, below = (intervals.seconds_of(groups[which]) for which in (cell, found[0]))
        low, high = intervals.ratio_interval(above, below, np.random.default_rng(seed))
        return f"{number(above.mean / below.mean)} ({interval(low, high)})"

    return write


def recoveries(folders: Mapping[str, str]) -> Lines:
    """One row per killed node. `folders`: results folder -> how many nodes held each portion."""
    header = ["Flow", "Nodes for a portion", "Repeats allowed", "Failed", "Failed attempts", "Repeated"]
    body = []
    for folder, nodes in folders.items():
        measured = samples.read(REFERENCE / folder)
        cells = {cell.name: cell for cell in groups_of(measured)}
        for kill in faults.recoveries(stored_faults.read(REFERENCE / folder), measured):
            cell = cells[kill["cell"]]
            counts = [str(kill[name]) for name in ("failed", "attempts", "repeated")]
            times = [number(kill[name], 3) for name in ("answered", "undisturbed")]
            body.append([cell.flow, nodes, str(cell.repeats), *counts, *times])
    return table([*header, "First answer after (s)", "Undisturbed after (s)"], body)


def by_size(folder: str, *sizes: float) -> Lines:
    """Median seconds of an echo, one row per size: the given `sizes` in MB, or every size measured."""
    found = medians(folder)
    kept = {key: value for key, value in found.items() if not sizes or key[1] in {size * MB for size in sizes}}
    return [_short(text) for text in sizes_report.by_way(kept, _ways(folder))]


def beside_libraries(folder: str) -> Lines:
    """Each transport's echo as a multiple of its library's own, one row for each transport."""
    return sizes_report.beside_libraries(echoes(folder), _ways(folder))


def _ways(folder: str) -> Sequence[Way]:
    return Study.from_record(environment.read(REFERENCE / folder)["experiment"]).ways


def ladder_of(folder: str) -> Lines:
    """The steps of a request, one column per cell of the ladder in `folder`."""
    found = ladder.ladders(samples.read(REFERENCE / folder), stored_ladder.read(REFERENCE / folder))
    return ladder.steps_table(found, [column_title(each.cell) for each in found])


def by_link(folder: str) -> Lines:
    """The two fastest ways to cut over each link (`experiments.reports.link_map`)."""
    experiment = from_record(environment.read(REFERENCE / folder)["experiment"])
    found = link_map.LinkMap.of(experiment, samples.read(REFERENCE / folder))
    assert found is not None
    return table(link_map.HEADER, link_map.ranking(found, Settings(found.rows), experiment.seed), left=3)


def all_transports() -> Lines:
    """One row per transport, from what its class says."""
    kinds = {name: transports.kind(name) for name in transports.NAMES}
    body = [
        [
            f"`{name}`",
            kind.title,
            ", ".join(f"`{codec}`" for codec in kind.codecs) if kind.addressing != "in-process" else ABSENT,
            ", ".join(dict.fromkeys(kind.libraries.values())) or ABSENT,
            "mutual TLS" if kind.secure == "tls" else kind.secure or ABSENT,
            kind.addressing,
        ]
        for name, kind in kinds.items()
    ]
    head = ["`--transport`", "in tables", "codecs, the default first", "libraries", "protection", "addresses"]
    return table(head, body, len(head))


def all_runtimes() -> Lines:
    """One row per runtime, from what its class says."""
    body = [
        [
            f"`{name}`",
            kind.title,
            ", ".join(f"`{engine}`" for engine in kind.engines),
            "any" if kind.overlaps else "1",
            ", ".join(kind.libraries.values()) or "tensorflow",
            kind.secure or ABSENT,
            "several" if kind.crosses_network else "one",
        ]
        for name, kind in ((name, runtimes.kind(name)) for name in runtimes.NAMES)
    ]
    head = ["`--transport`", "in tables", "engines", "in flight", "libraries", "protection", "machines"]
    return table(head, body, len(head))


def _rows(folder: str) -> list[Row]:
    return sections.records(pd.read_csv(REFERENCE / folder / files.SUMMARY))


def _is(cell: Cell, chosen: Mapping[str, object]) -> bool:
    return all(getattr(cell, name) == value for name, value in chosen.items())


def _short(text: str) -> str:
    """Return `text` with every number rounded to three digits, except sizes in MB."""
    return re.sub(r"\d+\.\d+(?! MB|\d)", lambda found: number(float(found[0]), 3), text)


WIRE = ("Wire (MB)", "Wire / payload")
THROUGHPUT = ("Throughput (1/s)", "Throughput x Local", "95 % of throughput")
PLAIN = {"transport": "grpc", "engine": "graph"}

TABLES: Mapping[str, Callable[[], Lines]] = {
    "seed-layer": partial(by_column, "seed-layer", "Published x / Local", placement="block-cyclic"),
    "seed-submodel": partial(by_column, "seed-submodel", "Published x / Local"),
    "tuned-layer": partial(by_column, "tuned-layer"),
    "tuned-eager": partial(by_column, "tuned-submodel", engine="eager"),
    "tuned-frozen": partial(by_column, "tuned-submodel", engine="frozen", batch=1),
    "tuned-frozen-8": partial(by_column, "tuned-submodel", engine="frozen", batch=8),
    "wire": partial(by_column, "wire", *WIRE),
    "serving": partial(by_row, "serving", "Mean (s)", "x / Local", "95 % interval", "Wire / payload", against=PLAIN),
    "flows": partial(by_row, "flows", *COMPARED, *SENT),
    "pipeline": partial(by_column, "pipeline", *THROUGHPUT, concurrency=4),
    "pipeline-light": partial(by_column, "pipeline-light", *THROUGHPUT, concurrency=4),
    "faults": partial(recoveries, {"faults": "1", "faults-replicas": "2"}),
    "rivals": partial(by_row, "rivals", *TIMES, "x / None"),
    "rivals-poll": partial(by_row, "rivals-poll", *TIMES, "x / None"),
    "batch": partial(by_row, "batch", *TIMES, "x / None"),
    "edge-cloud": partial(by_link, "edge-cloud"),
    "phases": partial(studies.phases_of, "traced"),
    "phases-links": partial(studies.phases_of, "traced-links"),
    "tracing": partial(studies.cost_of_tracing, "traced"),
    "load-sweep": partial(studies.knees, "load-sweep"),
    "packing": partial(studies.packings, "compression", "tcp"),
    "packing-links": partial(by_link, "compression"),
    "advice": partial(studies.advice_study, "advice"),
    "simulation": partial(studies.simulated, "simulation"),
    "ladder": lambda: ladder_of("ladder"),
    "hop": lambda: ladder_of("hop"),
    "sizes-bare": lambda: beside_libraries("sizes-bare"),
    "sizes": partial(by_size, "sizes", 0.01, 0.1, 1, 8, 32),
    "sizes-large": partial(by_size, "sizes-large"),
    "threads": lambda: threads_report.table_of(REFERENCE / "threads"),
    "transports": all_transports,
    "runtimes": all_runtimes,
}
"""Name of a table -> the function that writes its lines."""


def pages() -> list[Path]:
    """The Markdown files that may hold tables."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 0, or 1 if `--check` finds a table that differs from the results."""
    parser = argparse.ArgumentParser(prog="python -m tools.docs_tables", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a page would change")
    given = parser.parse_args(argv)
    texts = {page: page.read_text(encoding="utf-8") for page in pages()}
    filled = {page: docs_figures.fill(page.name, fill(old)) for page, old in texts.items()}
    stale = {page: new for page, new in filled.items() if new != texts[page]}
    for page, new in stale.items():
        if given.check:
            print(f"{page.relative_to(ROOT)} is out of date: run python -m tools.docs_tables", file=sys.stderr)
        else:
            files.replace_file(page, new)
    return 1 if given.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
