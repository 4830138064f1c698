"""Sections about the quality of a measurement: why it stopped, drift of the machine, comparisons of equal cells."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from experiments.reports.labels import Settings
from experiments.reports.markdown import interval, line, number, table
from experiments.reports.sections import records
from experiments.spec.experiment import Experiment, local_of
from experiments.store.intervals import half_width
from experiments.store.knees import swept
from experiments.store.loaded import overloaded
from experiments.store.samples import cell_of
from experiments.store.statistics import drifts, twins

DRIFT = 0.1
"""The report warns if the local model's time changes by more than this share during a run."""


def outcome(experiment: Experiment, measured: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    """Which condition ended a run with `until_stable` or `limit`, the drift of local models, and overloaded cells."""
    parts = [_ending(experiment, measured, summary)] if experiment.until_stable or experiment.limit else []
    if drifted := drifts(measured):
        text = ", ".join(f"{100 * value:+.1f} % ({cell.engine}, batch {cell.batch})" for cell, value in drifted.items())
        parts.append(f"Drift of the local model, from the first to the last third of its blocks: {text}.")
    if any(abs(value) > DRIFT for value in drifted.values()):
        parts.append(
            f"> **WARNING**: the local model drifted by more than {100 * DRIFT:.0f} %. The machine was not steady: "
            "repeat the experiment before you compare its times with others."
        )
    parts += [f"> **OVERLOADED**: {line(text)}" for text in overloads(summary)]
    return "\n\n".join(parts).split("\n") if parts else []


def overloads(summary: pd.DataFrame) -> list[str]:
    """A sentence for each overloaded cell outside of sweeps. The section about loads covers sweeps, whose last rate is
    an overload."""
    rows = records(summary)
    cells = [cell_of(row) for row in rows]
    settings, left_out = Settings(cells), swept(cells)
    return [
        f"{settings.label(cell_of(row))}: answers take longer and longer. {number(row['offered'], 3)} requests arrived "
        f"per second, and {number(row['goodput'], 3)} were answered within the time limit; the last third of a block "
        f"took {number(row['growth'], 3)} times as long as the first."
        for row in rows
        if overloaded(row) and cell_of(row) not in left_out
    ]


def _ending(experiment: Experiment, measured: pd.DataFrame, summary: pd.DataFrame) -> str:
    compared = [row for row in records(summary) if cell_of(row) != local_of(cell_of(row))]
    widths = [half_width(row["ratio_to_local"], row["ratio_low"], row["ratio_high"]) for row in compared]
    widest = 100 * float(np.max(widths)) if widths else math.nan
    rounds, n = measured["round"].nunique(), 0 if summary.empty else int(summary["n"].max())
    if experiment.until_stable and widest <= experiment.until_stable:
        why = f"--until-stable {experiment.until_stable:g} % ended the run"
    elif n == experiment.runs:
        why = "--runs ended the run"
    else:
        why = f"--limit {experiment.limit:g} s ended the run" if experiment.limit else "the run did not finish"
    counted = "1 round was measured" if rounds == 1 else f"{rounds} rounds were measured"
    known = "" if math.isnan(widest) else f" Every x / Local is known to within ±{number(widest, 2)} %."
    return f"{counted} ({n} of {experiment.runs} requests of each cell); {why}.{known}"


def same_cells(measured: pd.DataFrame, seed: int) -> list[str]:
    """The table of cells that differ only in their label (A/A); empty without any."""
    found = twins(measured, seed)
    if not found:
        return []
    settings = Settings([cell for pair in found for cell in pair[:2]])
    body = [
        [
            *(line(settings.label(one)) for one in (cell, base)),
            *(number(ratio), interval(low, high), "yes" if low <= 1 <= high else "no"),
        ]
        for cell, base, (ratio, low, high) in found
    ]
    held = sum(low <= 1 <= high for _, _, (_, low, high) in found)
    return [
        "## The same cell under several labels",
        "",
        f"These cells differ only in their label, so their ratio should be 1: {held} of {len(found)} intervals contain "
        "it. A 95 % interval misses it in one of twenty cases.",
        "",
        *table(["Cell", "Compared with", "Ratio of means", "95 % interval", "Contains 1"], body, left=2),
    ]
