"""simulation.csv, the figures of a simulation, and the files derived from it: simulation.md and replicas.svg.

simulation.csv has a row for each load and number of replicas (units in brackets): `kind`, always `simulated`; `cell`,
the measured cell that was fitted; `load`, or `concurrency` of a closed loop; `replicas` of each server; `requests` that
count; `mean`, its standard error `mean_error`, `p50`, `p95` and `p99` [s, from the intended start]; `offered` and
`goodput` [1/s]; `missed_share`; `growth`, the mean of the last third over that of the first; `overloaded` (1: latency
grows without end); `bottleneck`, the resource that is used most, and `bottleneck_used`, its share; `used`, the share of
every resource.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.table import Table

from experiments.reports import charts, sections
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.spec.load import Load
from experiments.store import environment, files, rows
from experiments.store.rows import Number

FIGURES = ("mean", "mean_error", "p50", "p95", "p99", "offered", "goodput", "missed_share", "growth")
COLUMNS = (
    *("kind", "cell", "load", "concurrency", "replicas", "requests"),
    *FIGURES,
    *("overloaded", "bottleneck", "bottleneck_used", "used"),
)
WHOLE = ("concurrency", "replicas", "requests", "overloaded")
HEADER = ("load", "replicas", "p50 (ms)", "p95 (ms)", "p99 (ms)", "answered (1/s)", "in use (%)", "first bottleneck")
KINDS = ("cores", "stages", "messages", "sender", "link")
"""First words of the names of resources."""
USED = ("load", "replicas", *(f"{kind} (%)" for kind in KINDS))
SHORT = ("load", "replicas", "p50 ms", "p95 ms", "p99 ms", "1/s", "use %", "first bottleneck")
"""`HEADER` for a terminal."""
TITLE = "A simulation, not a measurement"


def read(folder: Path) -> pd.DataFrame:
    """The rows of simulation.csv. Raises `UsageError` for a file that is missing, or no such file."""
    numbers = {name: Number(may_be_empty=True) for name in (*FIGURES, "bottleneck_used")}
    return rows.read(folder / files.SIMULATION, COLUMNS, numbers | {name: Number(whole=True) for name in WHOLE})


def writer(folder: Path) -> rows.Writer:
    """Creates simulation.csv in `folder` and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.SIMULATION, COLUMNS)


def build(folder: Path) -> Path:
    """Write simulation.md and replicas.svg into `folder`, and return the path of the page.

    Raises `UsageError` if `folder` holds no simulation, and `WriteError` if a file cannot be written.
    """
    record, found = environment.read(folder), read(folder)
    bound = float(record.get("bound") or math.nan)
    drawn = found[found["load"] != ""]
    picture = (
        sections.picture(folder / files.REPLICAS, "Replicas needed against load", lambda: draw(drawn, bound))
        if len(drawn)
        else []
    )
    parts = [
        [f"# {TITLE}"],
        sections.banner(record, ""),
        [line(text) for text in record.get("what", [])],
        table(HEADER, [[line(text) for text in cells(row)] for row in found.to_dict("records")], left=2),
        [f"- {line(text)}" for text in needs(found, bound)],
        ["## How much is used", "", *table(USED, [used(row) for row in found.to_dict("records")], left=2)],
        picture,
        HOW_TO_READ,
        sections.machine(record, {}),
    ]
    files.replace_file(folder / files.SIMULATION_REPORT, "\n\n".join("\n".join(part) for part in parts if part) + "\n")
    return folder / files.SIMULATION_REPORT


def cells(row: Mapping[Any, Any]) -> list[str]:
    """The texts of a row of the table, under `HEADER`."""
    closed = f"{row['concurrency']} in flight"
    notes = ", overloaded" if row["overloaded"] else ""
    notes += f", {100 * row['missed_share']:.3g} % missed" if row["missed_share"] else ""
    milliseconds = [number(1e3 * row[name], 4) for name in ("p50", "p95", "p99")]
    used = f"{100 * row['bottleneck_used']:.0f}"
    figures = (*milliseconds, number(row["goodput"], 4), used)
    return [row["load"] or closed, str(row["replicas"]), *figures, row["bottleneck"] + notes]


def used(row: Mapping[Any, Any]) -> list[str]:
    """The texts of a row under `USED`: the share of the resource of each kind that is used most."""
    shares = dict.fromkeys(KINDS, 0.0)
    for text in filter(None, row["used"].split("; ")):
        name, _, share = text.rpartition("=")
        kind = name.partition(" ")[0]
        shares[kind] = max(shares.get(kind, 0.0), float(share))
    return [*cells(row)[:2], *(f"{100 * share:.0f}" if share else ABSENT for share in shares.values())]


def printed(rows_: Sequence[Mapping[str, Any]]) -> Table:
    """The table for a terminal: only the last column is folded."""
    shown = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for place, name in enumerate(SHORT):
        last = place == len(SHORT) - 1
        shown.add_column(name, justify="left" if place < 2 or last else "right", no_wrap=not last, overflow="fold")
    for row in rows_:
        shown.add_row(*cells(row))
    return shown


def needed(found: pd.DataFrame, bound: float) -> Mapping[str, int | None]:
    """Load -> the fewest replicas, of those simulated, that hold it with a 99th percentile within `bound` seconds.

    None if no number does. A load is held if no request is missed and no queue grows.
    """
    held = (found["p99"] <= bound) & (found["missed_share"] == 0) & (found["overloaded"] == 0)
    fewest = found[held].groupby("load")["replicas"].min()
    return {load: int(fewest[load]) if load in fewest else None for load in dict.fromkeys(found["load"]) if load}


def needs(found: pd.DataFrame, bound: float) -> list[str]:
    """A sentence for each load: the replicas that it needs, or what stops it."""
    texts = []
    for load, replicas in needed(found, bound).items():
        within = f"with a 99th percentile within {number(1e3 * bound, 4)} ms"
        rows_ = found[found["load"] == load]
        if replicas is None:
            most = rows_.sort_values("replicas").iloc[-1]
            stops = f"with {most['replicas']}, {most['bottleneck']} is used {100 * most['bottleneck_used']:.0f} %"
            tried = ", ".join(map(str, sorted(rows_["replicas"])))
            texts.append(f"{load}: not held {within} by any number of replicas that was tried ({tried}); {stops}.")
        else:
            texts.append(f"{load}: held {within} by {replicas} {'replica' if replicas == 1 else 'replicas'}.")
    return texts


def draw(found: pd.DataFrame, bound: float) -> str:
    """The fewest replicas for each load, a line for each kind of load; crosses mark loads that no number of replicas
    holds."""
    return charts.svg((8, 4.5), lambda axes: _draw(axes, needed(found, bound), int(found["replicas"].max()), bound))


def _draw(axes: Any, fewest: Mapping[str, int | None], most: int, bound: float) -> None:
    kinds: dict[str, list[tuple[float, int | None]]] = {}
    for text, replicas in fewest.items():
        load = Load.parse(text)
        kinds.setdefault(load.kind, []).append((load.rate, replicas))
    for place, (kind, points) in enumerate(sorted(kinds.items())):
        colour = charts.COLOURS[place % len(charts.COLOURS)]
        held: Sequence[tuple[float, int]] = sorted((rate, count) for rate, count in points if count is not None)
        axes.plot(*_columns(held), marker="o", linestyle=":", color=colour, label=kind)
        beyond = [(rate, most + 1) for rate, count in points if count is None]
        axes.scatter(*_columns(beyond), marker="x", color=colour, label=f"{kind}: not held" if beyond else None)
    axes.set_title(f"Replicas that hold a load with p99 within {number(1e3 * bound, 4)} ms (simulated)", loc="left")
    axes.set_xlabel("requests per second")
    axes.set_ylabel("replicas of each server")
    axes.set_xlim(left=0)
    axes.set_ylim(0, most + 1.5)
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.grid(color="0.9")
    axes.legend(frameon=False)


def _columns(points: Sequence[tuple[float, int]]) -> tuple[list[float], list[int]]:
    return [rate for rate, _ in points], [count for _, count in points]


HOW_TO_READ = [
    "## How to read this",
    "",
    "- Nothing in this folder was measured. The seconds of each step come from the measured cell named above; who "
    "waits for what was simulated.",
    "- **p50, p95, p99** are percentiles of the seconds from the intended start of a request to its answer. "
    "**answered** counts answers within the time limit.",
    "- **How much is used** has, for each kind, the resource that is used most; simulation.csv has every one.",
    "- **first bottleneck** is the resource with the least left: the cores of a host, the stages that a process may "
    "execute at a time, the messages that it handles one after the other, its sender to another process, or a link.",
    "- **overloaded**: more requests arrive than are answered, and latency grows with the length of the simulation.",
]
