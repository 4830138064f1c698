"""Sections of reports, each a list of lines, and the figures of a cell. A section without lines is left out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reports.markdown import ABSENT, count, interval, line, number, table
from experiments.spec.experiment import Experiment
from experiments.spec.schedule import lead, warm_ups
from experiments.store.files import replace_file
from transports.packing import is_lossless

Row = Mapping[str, Any]


def loaded(row: Row) -> bool:
    """Whether the row is of a cell under an open-loop load."""
    return not math.isnan(row["offered"])


FIGURES: tuple[tuple[str, Callable[[Row], str]], ...] = (
    ("Mean (s)", lambda row: number(row["mean"])),
    ("Std Dev (s)", lambda row: number(row["std"])),
    ("x / Local", lambda row: ratio(row["ratio_to_local"])),
    ("95 % interval", lambda row: _interval(row["ratio_low"], row["ratio_high"])),
    ("x / None", lambda row: ratio(row["ratio_to_none"])),
    ("95 % of x / None", lambda row: _interval(row["none_low"], row["none_high"])),
    ("Outside the stages (s)", lambda row: number(row["outside_seconds"], 4)),
    ("Queue (s)", lambda row: number(row["queue_seconds"], 4)),
    ("Median (s)", lambda row: number(row["median"])),
    ("p90 (s)", lambda row: number(row["p90"])),
    ("p95 (s)", lambda row: number(row["p95"])),
    ("p99 (s)", lambda row: number(row["p99"])),
    ("Messages", lambda row: count(row["messages"])),
    ("Payload (MB)", lambda row: count(row["payload_bytes"] / 1e6)),
    ("Wire (MB)", lambda row: count(row["wire_bytes"] / 1e6)),
    (
        "Wire / payload",
        lambda row: ratio(row["wire_bytes"] / row["payload_bytes"] if row["payload_bytes"] else math.nan),
    ),
    ("Compute share", lambda row: number(row["compute_share"], 3)),
    ("Throughput (1/s)", lambda row: number(row["throughput"])),
    ("Throughput x Local", lambda row: ratio(row["throughput_to_local"])),
    ("95 % of throughput", lambda row: _interval(row["throughput_low"], row["throughput_high"])),
    ("Offered (1/s)", lambda row: number(row["offered"])),
    ("Goodput (1/s)", lambda row: number(row["goodput"])),
    ("Missed (%)", lambda row: number(100 * row["missed_share"], 3)),
    ("Late (s)", lambda row: number(row["late_seconds"], 3)),
    ("Last / first third", lambda row: number(row["growth"], 4)),
    ("95 % of thirds", lambda row: _interval(row["growth_low"], row["growth_high"])),
)
"""Rows of the tables in the source document's shape; the document itself has the first three."""

MEASURED: Mapping[str, Callable[[Row], bool]] = {
    **dict.fromkeys(("Wire (MB)", "Wire / payload"), lambda row: row["wire_bytes"] > 0),
    "Queue (s)": lambda row: not math.isnan(row["queue_seconds"]),
    **dict.fromkeys(("p95 (s)", "Offered (1/s)", "Goodput (1/s)", "Missed (%)", "Late (s)"), loaded),
    **dict.fromkeys(("Last / first third", "95 % of thirds"), loaded),
}
"""Rows that a table leaves out unless a cell has such a figure; older files have none."""

LOADS = 8
"""Most loads that the overview lists; of more it gives the number."""

GIVEN = (
    *(("Scale of images", "scale"), ("Extents", "extent"), ("Absent inputs", "absent")),
    *(("Pinned to cores", "pin"), ("Idle processors", "idle"), ("Lease (s)", "lease"), ("Kill", "kill")),
    *(("Host", "host"), ("Largest message (B)", "max_message")),
)
"""Settings that the environment lists if they are not the default."""


def banner(record: Mapping[str, Any], note: str) -> list[str]:
    """The warnings at the top: an incomplete run with its cause, a warning about the inputs, and a `note` about the
    samples."""
    lines = []
    if not record["complete"]:
        lines.append(f"> **INCOMPLETE**: {line(str(record['failure'])) or 'the run recorded no cause'}")
    for name in ("warning", "links_warning"):
        if warning := record.get(name):
            lines.append(f"> **WARNING**: {line(str(warning))}")
    if note:
        lines.append(f"> **NOTE**: {line(note)}")
    return "\n>\n".join(lines).split("\n") if lines else []


def overview(experiment: Experiment) -> list[str]:
    levels = sorted({cell.concurrency for cell in experiment.cells})
    leads = sorted({lead(cell.concurrency, experiment.replicas) for cell in experiment.cells})
    client = f"with {' or '.join(map(str, levels))} requests in flight" if levels[-1:] > [1] else "one at a time"
    if loads := [line(load) for load in dict.fromkeys(cell.load for cell in experiment.cells) if load]:
        listed = ", ".join(loads) if len(loads) <= LOADS else f"{len(loads)} loads"
        client += f" in a closed loop, or in an open loop ({listed})"
    return [
        f"Model {line(experiment.model)} ({experiment.weights} weights). Each cell: {experiment.runs} timed requests "
        f"after {warm_ups(experiment.warmup)} warm-up requests, {client}, in blocks, order "
        f"{experiment.turns}. Requests at the start of each block that do not count: {' or '.join(map(str, leads))}."
    ]


def correctness(record: Mapping[str, Any], measured: pd.DataFrame) -> list[str]:
    """The tolerance of the answers, and the near ties of each cell; empty for a record of an earlier version."""
    if not (gate := record.get("gate")):
        return []
    text = (
        f"Every answer was compared with the local model's: a number may deviate by {gate['tolerance']:g} of its "
        f"output's largest value, since {line(gate['reason'])}."
    )
    if not all(map(is_lossless, measured["wire"].unique())):
        text += " Answers that crossed a lossy wire have no tolerance."
    ties = measured.groupby("cell", sort=False)["near_ties"].sum()
    if listed := [f"{count} in {line(str(cell))}" for cell, count in ties.items() if count]:
        text += (
            " Elements of integer or boolean outputs that differ, because the scores that decide them are within that "
            f"tolerance of each other (near ties): {', '.join(listed)}."
        )
    return [text]


def noted(parts: Iterable[Sequence[str]]) -> tuple[list[str], list[str]]:
    """The warnings in `parts`, for the top of a report, and the other lines, each a paragraph."""
    lines = [text for part in parts for text in part if text.strip("> ")]
    warnings = [text for text in lines if text.startswith(">")]
    notes = [text for text in lines if not text.startswith(">")]
    return "\n>\n".join(warnings).splitlines(), "\n\n".join(notes).splitlines()


def picture(path: Path, description: str, draw: Callable[[], str]) -> list[str]:
    """Draw an SVG text into the file `path`. Returns a line that shows it, or that names the package that is missing.

    Nothing is written or shown if the text is empty.
    """
    try:
        chart = draw()
    except ModuleNotFoundError as error:
        return [f"No chart: it needs {error.name}, which is in the extra `charts` (`pip install 'matplotlib>=3.9'`)."]
    if not chart:
        return []
    replace_file(path, chart)
    return [f"![{description}]({path.name})"]


def figures(rows: Sequence[Row]) -> list[tuple[str, Callable[[Row], str]]]:
    """`FIGURES`; figures in `MEASURED` only if a row has them."""
    return [(name, write) for name, write in FIGURES if name not in MEASURED or any(map(MEASURED[name], rows))]


def environment(record: Mapping[str, Any], experiment: Experiment) -> list[str]:
    settings = {
        "Input": record["experiment"].get("input"),
        "Seed": str(experiment.seed),
        "Time limit (s)": f"{experiment.timeout:g}",
        "Workers": str(experiment.workers or "as many as needed"),
        "Replicas of each portion": str(experiment.replicas),
        "TLS": _tls(experiment),
        "Options": pairs(experiment.option),
    }
    given = ((title, name, getattr(experiment, name)) for title, name in GIVEN)
    settings |= {
        title: ", ".join(value) if isinstance(value, tuple) else str(value)
        for title, name, value in given
        if value != getattr(Experiment, name)
    }
    if cards := record.get("cards"):
        settings["Cards"] = f"{pairs(cards)}, TF32 {experiment.tf32}"
    if served := record.get("model_server"):
        settings["Model server"] = pairs(served)
    return machine(record, settings)


def _tls(experiment: Experiment) -> str:
    """`"mutual (grpc, rest)"`: the transports with a certificate, whether a flag or an option gave it."""
    if experiment.several_machines and experiment.insecure != "on":
        return "mutual, with the certificate given" if experiment.tls_cert else "mutual, with a certificate of this run"
    names = [key.partition(".")[0] for key, value in experiment.options.items() if key.endswith(".tls_cert") and value]
    secured = [name for name in dict.fromkeys(names) if name != "none"]
    return f"mutual ({', '.join(secured)})" if secured else "none"


def machine(record: Mapping[str, Any], settings: Mapping[str, str]) -> list[str]:
    """The environment's table: the recorded machine and software, and then `settings`."""
    commit = record.get("commit")
    values = {
        "Command": " ".join(record.get("command") or []),
        "Started": record.get("started"),
        "Ended": record.get("ended"),
        "Commit": f"{commit['commit']}{' with changes' if commit['dirty'] else ''}" if commit else "",
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


def pairs(record: Mapping[str, Any] | None) -> str:
    """`"grpc.chunk 65536, grpc.stall 5"`; entries that are `None` are left out."""
    return ", ".join(f"{key} {value}" for key, value in (record or {}).items() if value is not None)


def _list(values: Iterable[float] | None) -> str:
    return ", ".join(f"{value:g}" for value in values or ())


def _interval(low: float, high: float) -> str:
    """The interval of a ratio; a cell compared with itself has none."""
    return ABSENT if low == high == 1 else interval(low, high)


def ratio(value: float) -> str:
    return "1" if value == 1 else number(value)


def records(summary: pd.DataFrame) -> list[Row]:
    """The rows of a summary, each a mapping from column to value."""
    return [{str(key): value for key, value in row.items()} for row in summary.to_dict("records")]
