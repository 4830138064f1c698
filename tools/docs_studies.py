"""Tables of the docs about phases, load, packing, advice and simulation, from results/reference."""

from __future__ import annotations

import math
from dataclasses import replace

import pandas as pd

from experiments.reports import compression, loads
from experiments.reports.labels import Settings, transport_title
from experiments.reports.link_map import place
from experiments.reports.loads import Loads
from experiments.reports.markdown import ABSENT, count, interval, line, number, table
from experiments.reports.phases import Traced
from experiments.simulate import compared
from experiments.spec.experiment import Cell
from experiments.spec.settings import from_record
from experiments.store import environment, files, phases, samples
from experiments.store.intervals import seconds_of
from experiments.store.statistics import groups_of, ratio_of
from tools.advice_study import regret_text
from tools.docs_sources import REFERENCE

Lines = list[str]


def phases_of(folder: str) -> Lines:
    """The phases of the traced cells, one row for each."""
    summary = pd.read_csv(REFERENCE / folder / files.SUMMARY)
    header, body = Traced.of(phases.read(REFERENCE / folder), summary, {}).rows()
    return table(header, [[line(row[0]), *row[1:]] for row in body])


def cost_of_tracing(folder: str) -> Lines:
    """The time of each traced cell over that of the same cell without tracing, paired by round."""
    groups = groups_of(samples.read(REFERENCE / folder))
    body = []
    for cell in groups:
        off = replace(cell, trace=Cell.trace)
        if cell != off and off in groups:
            ratio, low, high = ratio_of(cell, off, seconds_of(groups[cell]), seconds_of(groups[off]), 0)
            means = [number(1e3 * groups[each]["seconds"].mean(), 3) for each in (off, cell)]
            body.append(
                [transport_title(cell.transport), cell.flow, *means, f"{number(ratio, 3)} ({interval(low, high)})"]
            )
    return table(["Over", "Flow", "Off (ms)", "On (ms)", "On / off (95 %)"], body, left=2)


def knees(folder: str) -> Lines:
    """One row for each sweep of rates."""
    summary, measured = pd.read_csv(REFERENCE / folder / files.SUMMARY), samples.read(REFERENCE / folder)
    seed = int(environment.read(REFERENCE / folder)["experiment"]["seed"])
    found = Loads.of(measured, summary, {}, seed)
    body = []
    for sweep in found.sweeps:
        knee, ties = sweep.knee, ", ".join(f"{each.rate:.4g}" for each in sweep.ties)
        latency = [loads.ms(knee, name) for name in ("median", "p95", "p99")]
        highest = f"{sweep.highest.rate:.4g}" if sweep.highest else ABSENT
        body.append([line(found.label(sweep)), f"{knee.rate:.4g}", *latency, ties or ABSENT, highest])
    header = [
        "Cell",
        "Knee (1/s)",
        "p50 there (ms)",
        "p95 (ms)",
        "p99 (ms)",
        "No different (1/s)",
        "Highest held (1/s)",
    ]
    return table(header, body)


def packings(folder: str, transport: str) -> Lines:
    """One row for each packing over a transport."""
    experiment = from_record(environment.read(REFERENCE / folder)["experiment"])
    found = [
        each
        for each in compression.packings(experiment, samples.read(REFERENCE / folder))
        if each.cell.transport == transport
    ]
    settings, body = Settings([each.cell for each in found]), []
    for each in found:
        raw, packed = each.mean("raw_bytes"), each.mean("packed_bytes")
        bandwidth, low, high = each.break_even(experiment.seed)
        pays = number(bandwidth, 3) if math.isnan(low) else f"{number(bandwidth, 3)} ({interval(low, high)})"
        cosine = each.samples["cosine"].min()
        seconds = [number(1e3 * each.mean(name), 2) for name in ("pack_seconds", "unpack_seconds")]
        where = line(place(settings, replace(each.cell, wire=Cell.wire)))
        lossy = "bit for bit" if each.lossless else f"cosine {number(cosine, 3)}"
        body.append([where, each.cell.wire, count(raw / 1e3), number(raw / packed, 3), *seconds, pays, lossy])
    header = ["What crosses", "Wire", "Raw (kB)", "Ratio", "Pack (ms)", "Unpack (ms)", "Pays below (Mbit/s)", "Answers"]
    return table(header, body, left=2)


def advice_study(folder: str) -> Lines:
    """One row for each model and link."""
    body = []
    for row in pd.read_csv(REFERENCE / folder / "study.csv").to_dict("records"):
        errors = [f"{100 * row[name]:.1f} %" for name in ("median", "within")]
        link = line(str(row["link"]).partition(" ")[2])
        regrets = [regret_text(row), regret_text(row, "corrected_")]
        body.append([row["model"], link, *errors, line(row["advised"]), *regrets])
    header = ["Model", "Link", "Median error", "Within 10 %", "Advised", "Regret (95 %)", "Regret, corrected (95 %)"]
    return table(header, body, left=2)


def simulated(folder: str) -> Lines:
    """Predicted percentiles beside measured ones."""
    return compared.table_of(REFERENCE / folder)
