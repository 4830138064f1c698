"""The sections of report.md, each a list of lines. An empty list is a section that is not there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from experiments.reports import engine_titles as engines
from experiments.reports.markdown import ABSENT, count, interval, line, number, table
from experiments.reports.published import Figures, figures_for
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.spec.schedule import BLOCK, VARIANTS, lead, warm_ups
from experiments.store import files
from experiments.store.samples import EXTRA_FIELDS, cell_of
from experiments.store.statistics import MIN_BLOCKS, RESAMPLES

Row = Mapping[str, Any]

TITLES: Mapping[str, str] = {"none": "None", "grpc": "gRPC", "rpyc": "RPyC", "rpyc-tuned": "RPyC tuned", "rest": "REST"}

FIGURES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("Mean (s)", lambda row: number(row["mean"])),
    ("Std Dev (s)", lambda row: number(row["std"])),
    ("x / Local", lambda row: _ratio(row["ratio_to_local"])),
    ("95 % interval", lambda row: _interval(row["ratio_low"], row["ratio_high"])),
    ("x / None", lambda row: _ratio(row["ratio_to_none"])),
    ("95 % of x / None", lambda row: _interval(row["none_low"], row["none_high"])),
    ("Outside the stages (s)", lambda row: number(row["outside_seconds"], 4)),
    ("Median (s)", lambda row: number(row["median"])),
    ("p90 (s)", lambda row: number(row["p90"])),
    ("p99 (s)", lambda row: number(row["p99"])),
    ("Messages", lambda row: count(row["messages"])),
    ("Payload (MB)", lambda row: count(row["payload_bytes"] / 1e6)),
    ("Wire (MB)", lambda row: count(row["wire_bytes"] / 1e6)),
    (
        "Wire / payload",
        lambda row: _ratio(row["wire_bytes"] / row["payload_bytes"] if row["payload_bytes"] else math.nan),
    ),
    ("Compute share", lambda row: number(row["compute_share"], 3)),
    ("Throughput (1/s)", lambda row: number(row["throughput"])),
    ("Throughput x Local", lambda row: _ratio(row["throughput_to_local"])),
    ("95 % of throughput", lambda row: _interval(row["throughput_low"], row["throughput_high"])),
)
"""Rows of the tables in the document's shape: its own three first."""

WIRE = ("Wire (MB)", "Wire / payload")
"""Rows that are left out of a table in which nothing was seen to cross."""

GIVEN = (
    *(("Pinned to cores", "pin"), ("Lease (s)", "lease"), ("Kill", "kill")),
    *(("Host", "host"), ("Largest message (B)", "max_message")),
)
"""Settings that the environment names where they are not the default."""

PUBLISHED: tuple[tuple[str, Callable[[Figures], str]], ...] = (
    ("Published mean (s)", lambda figures: number(figures.mean)),
    ("Published std dev (s)", lambda figures: number(figures.std, 4)),
    ("Published x / Local", lambda figures: _ratio(figures.ratio)),
)


def banner(record: Mapping[str, Any], note: str) -> list[str]:
    """What is wrong with the experiment, so that nobody takes half of it for the whole."""
    lines = []
    if not record["complete"]:
        lines.append(f"> **INCOMPLETE**: {line(str(record['failure'])) or 'the run did not say why'}")
    if note:
        lines.append(f"> **NOTE**: {line(note)}")
    return "\n>\n".join(lines).split("\n") if lines else []


def overview(experiment: Experiment) -> list[str]:
    levels = sorted({cell.concurrency for cell in experiment.cells})
    leads = sorted({lead(cell.concurrency, experiment.replicas) for cell in experiment.cells})
    known = f"with {' or '.join(map(str, levels))} requests under way at a time"
    client = known if levels[-1:] > [1] else "without concurrent requests"
    return [
        f"Model {line(experiment.model)} ({experiment.weights} weights), {experiment.runs} timed requests in each cell "
        f"after {warm_ups(experiment.warmup, VARIANTS)} warm-up requests, one client {client}, "
        f"order {experiment.turns}. "
        f"Requests at the begin of each block that are not counted: {' or '.join(map(str, leads))}."
    ]


def chart(missing: str) -> list[str]:
    if missing == "a ratio to draw":
        return []
    if missing:
        return [f"No chart: it needs {missing}, which is in the extra `charts` (`pip install 'matplotlib>=3.9'`)."]
    return [f"![How many times the local model's time each cell takes, with its 95 % interval]({files.CHART})"]


def groups(summary: pd.DataFrame, titles: engines.Titles) -> list[list[str]]:
    """A table for each way to split and execute, whose columns are what carried the tensors."""
    if summary.empty:
        return [["No request was timed."]]
    rows = {cell_of(row): row for row in _records(summary)}
    found: dict[Cell, list[Cell]] = {}
    for cell in rows:
        if cell != local_of(cell) or not any(_beside(cell, other) for other in rows):
            found.setdefault(replace(cell, transport="none", codec=Cell.codec), []).append(cell)
    return [_group(key, cells, rows, titles) for key, cells in found.items()]


def _beside(local: Cell, other: Cell) -> bool:
    return other != local and local_of(other) == local


def _group(key: Cell, cells: Sequence[Cell], rows: Mapping[Cell, Row], titles: engines.Titles) -> list[str]:
    local = local_of(key)
    columns = [cell for cell in dict.fromkeys([local, *cells]) if cell in rows]
    runs = sorted({rows[cell]["n"] for cell in columns})
    header = [f"Data on {' to '.join(str(n) for n in dict.fromkeys([runs[0], runs[-1]]))} runs"]
    header += ["Local" if cell == local else column_title(cell) for cell in columns]
    shown = _figures([rows[cell] for cell in columns])
    body = [[label, *(write(rows[cell]) for cell in columns)] for label, write in shown]
    body += _published_rows([figures_for(cell, key) for cell in columns])
    return [f"## {_group_title(key, titles)}", "", *table(header, body)]


def _figures(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    """`FIGURES`, those of the `WIRE` only where something was seen to cross it: files from before have none."""
    crossed = any(row["wire_bytes"] > 0 for row in rows)
    return [(label, write) for label, write in FIGURES if crossed or label not in WIRE]


def _published_rows(figures: Sequence[Figures | None]) -> list[list[str]]:
    """The document's figures, if it has any for what was measured beyond the local model."""
    if not any(found and found.ratio != 1 for found in figures):
        return []
    return [[label, *(write(found) if found else ABSENT for found in figures)] for label, write in PUBLISHED]


def transport_title(name: str) -> str:
    return TITLES.get(name, name)


def column_title(cell: Cell) -> str:
    return transport_title(cell.transport) + (f" ({cell.codec})" if cell.codec != Cell.codec else "")


def _group_title(key: Cell, titles: engines.Titles) -> str:
    servers = f"{key.servers} server{'s' if key.servers != 1 else ''}"
    words = [
        f"Mode {key.mode}",
        engines.named(key.engine, titles, " engine"),
        f"batch {key.batch}",
        servers,
        f"flow {key.flow}",
    ]
    return ", ".join([*words, *_unusual(key)])


def _unusual(cell: Cell) -> list[str]:
    """The settings that are not in the names of cells, where they are not the default."""
    named = ((name, getattr(cell, name)) for name in EXTRA_FIELDS)
    return [f"{name.replace('_', '-')} {line(str(value))}" for name, value in named if value != getattr(Cell, name)]


def full_table(summary: pd.DataFrame, titles: engines.Titles) -> list[str]:
    if summary.empty:
        return []
    settings = ["Transport", "Mode", "Flow", "Engine", "Codec", "Batch", "Servers", "Other settings"]
    figures = _figures(_records(summary))
    header = [*settings, "n", *(label for label, _ in figures), "Connections", "Lookups", "Deviation"]
    body = [_full_row(cell_of(row), row, titles, [write(row) for _, write in figures]) for row in _records(summary)]
    return ["## Every cell", "", *table(header, body, left=len(settings))]


def _full_row(cell: Cell, row: Row, titles: engines.Titles, figures: Sequence[str]) -> list[str]:
    engine = engines.named(cell.engine, titles)
    settings = [cell.transport, cell.mode, cell.flow, engine, cell.codec, str(cell.batch), str(cell.servers)]
    other = ", ".join(_unusual(cell)) or "default"
    counts = [count(row["connects"]), count(row["lookups"])]
    deviation = ABSENT if math.isnan(row["deviation"]) else f"{row['deviation']:.1e}"
    return [*settings, other, str(row["n"]), *figures, *counts, deviation]


_WIRE_IS = (
    "- **Wire** is the median of what the loopback interface sent during a request: tensors, serialisation, framing, "
    "HTTP/2, the headers of TCP and IP, acknowledgements and questions to the registry. Its packets take up to 64 kB; "
    "on Ethernet headers add some 4 %. It is not told for overlapping requests; what compresses may send less than "
    "its payload; over None nothing crosses but calls of model servers. Under model servers **Wire / payload** has the "
    "bytes to and from them in Wire, but in payload only those that client and nodes send each other.",
)


def how_to_read(experiment: Experiment, summary: pd.DataFrame, titles: engines.Titles) -> list[str]:
    lines = [
        "- **Local** is the whole model in the client's own process (mode whole, transport none), with the same model, "
        "engine, batch and thread settings, measured in this experiment. Each ratio has its own.",
        "- **None** is the same partition with direct calls instead of a wire: what splitting alone costs.",
        "- **Mean, median, p90, p99** are wall-clock seconds of a request as its client sees it.",
        "- **Std Dev** is the sample standard deviation (divided by n - 1). The document does not say which it used.",
        "- **x / Local** and **x / None** are ratios of means.",
        f"- **95 % interval** is that of x / Local: a bootstrap over {RESAMPLES} resamples of whole blocks of both "
        f"cells (seed {experiment.seed}), since requests of a block are not independent; its percentiles are widened "
        f"for few blocks (Hesterberg 2015). Those of x / None and of Throughput x Local are found in the same way. "
        f"Where a cell has fewer than {MIN_BLOCKS} blocks there is none: it would promise too much. A block is {BLOCK} "
        "requests for each that is under way at a time, or (order blocked) all of a cell.",
        "- **Outside the stages** is the mean of a request's seconds less those spent in stages: what partition and "
        "transport took. It tells columns apart where x / Local, with one noisy local model below all, does not. "
        "Requests that overlap wait for each other in it; of stages that overlap each is taken off.",
        "- **Messages** and **Payload** are means per request: what was sent from one handler to another, and the "
        "bytes of the tensors in it (1 MB = 1000000 bytes). **Compute share** is the part of the time spent in stages.",
        *(_WIRE_IS if (summary["wire_bytes"] > 0).any() else ()),
        "- **Throughput** is requests per second, from the first start to the last end of each block of requests.",
        "- **Deviation** is the largest difference from the local model's output, over its largest value.",
        *engines.explained(dict.fromkeys(map(str, summary["engine"])), titles),
        "- **Published** figures are those of the source document, from its own machine and of a model that it does "
        "not name: compare the multiples, not the seconds.",
    ]
    return ["## How to read this", "", *lines]


def environment(record: Mapping[str, Any], experiment: Experiment) -> list[str]:
    settings = {
        "Input": record["experiment"].get("input"),
        "Seed": str(experiment.seed),
        "Time limit (s)": f"{experiment.timeout:g}",
        "Workers": str(experiment.workers or "as many as needed"),
        "Nodes for a portion": str(experiment.replicas),
        "TLS": _tls(experiment),
        "Options": pairs(experiment.option),
    }
    given = ((title, name, getattr(experiment, name)) for title, name in GIVEN)
    settings |= {title: str(value) for title, name, value in given if value != getattr(Experiment, name)}
    if served := record.get("model_server"):
        settings["Model server"] = pairs(served)
    return machine(record, settings)


def _tls(experiment: Experiment) -> str:
    """Which transports have it, be it said of one or of all."""
    names = [key.partition(".")[0] for key, value in experiment.options.items() if key.endswith(".tls_cert") and value]
    secured = [name for name in dict.fromkeys(names) if name != "none"]
    return f"mutual ({', '.join(secured)})" if secured else "none"


def machine(record: Mapping[str, Any], settings: Mapping[str, str]) -> list[str]:
    """What ran where, and beside it the `settings` of what ran."""
    values = {
        "Command": " ".join(record.get("command") or []),
        "Started": record.get("started"),
        "Ended": record.get("ended"),
        "Commit": _commit(record.get("commit")),
        "Processor": pairs(record.get("processor")),
        "Memory (GB)": number(float(record.get("memory_bytes") or math.nan) / 1e9, 4),
        "System": pairs(record.get("system")),
        "Load at start": _list(record.get("load_at_start")),
        "Load at end": _list(record.get("load_at_end")),
        "Threads": pairs(record.get("threads")),
        "Variables": pairs(record.get("variables")),
        "Versions": pairs(record.get("versions")),
    }
    body = [[name, line(str(value)) if value else ABSENT] for name, value in {**values, **settings}.items()]
    return ["## Environment", "", *table(["What", "Value"], body, left=2)]


def _commit(record: Mapping[str, Any] | None) -> str:
    return f"{record['commit']}{' with changes' if record['dirty'] else ''}" if record else ""


def pairs(record: Mapping[str, Any] | None) -> str:
    """`"grpc.chunk 65536, grpc.stall 5"`, without what is not known."""
    return ", ".join(f"{key} {value}" for key, value in (record or {}).items() if value is not None)


def _list(values: Iterable[float] | None) -> str:
    return ", ".join(f"{value:g}" for value in values or ())


def _interval(low: float, high: float) -> str:
    """Of a ratio; what is compared with itself has none."""
    return ABSENT if low == high == 1 else interval(low, high)


def _ratio(value: float) -> str:
    return "1" if value == 1 else number(value)


def _records(summary: pd.DataFrame) -> list[Row]:
    return [{str(key): value for key, value in row.items()} for row in summary.to_dict("records")]
