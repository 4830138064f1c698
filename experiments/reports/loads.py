"""The section about cells under an open-loop load: late starts, every rate, and the knee of each sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.reports import load_chart, sections
from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, interval, line, number, table
from experiments.spec.experiment import local_of
from experiments.store import files
from experiments.store.knees import Loaded, Sweep, configuration, loads_of, sweeps_of, swept
from experiments.store.loaded import SERVED
from experiments.store.samples import cell_of

LATE = 0.002
"""The report warns if the 99th percentile of late starts is above this many seconds."""
NAMED = 4
"""Most sweeps that the answer names."""


@dataclass(frozen=True)
class Loads:
    """The cells of an experiment under open-loop loads."""

    cells: Sequence[Loaded]
    sweeps: Sequence[Sweep]
    settings: Settings
    """The settings of the cells, without rates."""

    @classmethod
    def of(cls, measured: pd.DataFrame, summary: pd.DataFrame, titles: Mapping[str, str], seed: int) -> Loads:
        found = loads_of(measured, sections.records(summary))
        settings = Settings([configuration(each.cell) for each in found], titles)
        return cls(found, sweeps_of(measured, found, seed), settings)

    def label(self, each: Loaded | Sweep) -> str:
        """What distinguishes a configuration from the others."""
        return self.settings.label(configuration(each.cell) if isinstance(each, Loaded) else each.configuration)

    def rest(self, summary: pd.DataFrame) -> pd.DataFrame:
        """The rows of `summary` that are in no sweep, for sections that need no row for each rate; none if only local
        models are left.

        Without a sweep, all rows.
        """
        cells = [cell_of(row) for row in sections.records(summary)]
        left_out = swept(cells)
        alone = bool(left_out) and all(cell in left_out or cell == local_of(cell) for cell in cells)
        return summary[np.array([not alone and cell not in left_out for cell in cells], dtype=bool)]

    def section(self, folder: Path) -> list[str]:
        """The lines of the section, and its picture in `folder`; empty without a load."""
        if not self.cells:
            return []
        lines = [f"- {line(text)}" for text in map(self.told, self.sweeps)]
        return [
            *("## Load", ""),
            *([*lines, "", *KNEE, "", *self._picture(folder), ""] if lines else []),
            *table(HEADER, map(self._row, self._ordered()), left=2),
            *("", line(self._late())),
        ]

    def answer(self) -> list[str]:
        """A sentence about the knees; none without a sweep."""
        if not self.sweeps:
            return []
        best = sorted(self.sweeps, key=lambda sweep: (sweep.highest is None, -sweep.knee.rate))
        parts = [f"{_brief(sweep)} with {self.label(sweep)}" for sweep in best[:NAMED]]
        rest = [f"{len(best) - NAMED} more sweeps are in the table"] if len(best) > NAMED else []
        return [f"The knee, the rate with the most goodput for its mean latency, is {'; '.join(parts + rest)}."]

    def told(self, sweep: Sweep) -> str:
        """The knee of a sweep, the rates that cannot be told apart from it, and the highest rate held, in words."""
        knee, label = sweep.knee, self.label(sweep)
        if sweep.highest is None:
            return f"{label}: the knee is {_brief(sweep)}."
        at = f"{label}: the knee is at {rate(knee.rate)}, with p50 {ms(knee, 'median')} and p95 {ms(knee, 'p95')} ms."
        return " ".join([at, _noise(sweep), *_edge(sweep), f"The highest rate held is {rate(sweep.highest.rate)}."])

    def _picture(self, folder: Path) -> list[str]:
        labels = [self.label(sweep) for sweep in self.sweeps]
        description = "Latency against the offered rate, with the knee of each sweep"
        return sections.picture(folder / files.LOAD, description, lambda: load_chart.draw(self.sweeps, labels))

    def _ordered(self) -> list[Loaded]:
        places = list(dict.fromkeys(map(self.label, self.cells)))
        return sorted(self.cells, key=lambda each: (places.index(self.label(each)), each.rate))

    def _row(self, each: Loaded) -> list[str]:
        found = [(sweep, place) for sweep in self.sweeps for place, at in enumerate(sweep.cells) if at is each]
        ratio, low, high = found[0][0].powers[found[0][1]] if found else (float("nan"),) * 3
        knee = bool(found) and found[0][0].knee is each
        return [
            *(line(self.label(each)), f"{'knee, ' if knee else ''}{verdict(each)}", f"{each.rate:.6g}"),
            *(number(each.figures[name], 4) for name in ("offered", "goodput")),
            *(ms(each, name) for name in ("median", "p95", "p99")),
            *(number(100 * each.figures["missed_share"], 3), number(1e3 * each.late, 3)),
            *(number(ratio, 3), ABSENT if knee else interval(low, high)),
        ]

    def _late(self) -> str:
        steady = [each for each in self.cells if not each.overloaded] or self.cells
        worst = max(steady, key=lambda each: each.late)
        where = "cells that are not overloaded" if len(steady) < len(self.cells) else "all cells"
        text = f"In {where}, 99 % of the requests began at most {number(1e3 * worst.late, 3)} ms late"
        text += f" (at worst with {self.label(worst)}, {rate(worst.rate)}); their seconds include that time."
        if worst.late <= LATE:
            return text
        limit = f"That is more than {1e3 * LATE:g} ms"
        return f"{text} {limit}: the client was short of processor time, so compare latencies with care."


KNEE = (
    "The knee is the rate with the largest power: goodput over mean latency (Kleinrock 1979). A rate is held if the "
    f"cell is not overloaded and answers at least {100 * SERVED:.0f} % of what is offered. In the short blocks of a "
    "run the queue begins empty, so near the capacity latencies are lower bounds.",
)
HEADER = (
    *("Cell", "Verdict", "Rate (1/s)", "Offered (1/s)", "Goodput (1/s)", "p50 (ms)", "p95 (ms)", "p99 (ms)"),
    *("Missed (%)", "Late p99 (ms)", "Power / knee", "95 % interval"),
)


def verdict(each: Loaded) -> str:
    """`"held"`, `"not held"` or `"overloaded"` (`Loaded`)."""
    return "overloaded" if each.overloaded else "held" if each.held else "not held"


def rate(value: float) -> str:
    return f"{value:.6g} requests per second"


def ms(each: Loaded, name: str) -> str:
    return number(1e3 * each.figures[name], 3)


def _brief(sweep: Sweep) -> str:
    if sweep.highest is None:
        most = max(each.figures["goodput"] for each in sweep.cells)
        return f"below {rate(sweep.cells[0].rate)} (no rate was held: at most {number(most, 3)} were answered)"
    return f"at {rate(sweep.knee.rate)} (p95 {ms(sweep.knee, 'p95')} ms, up to {sweep.highest.rate:.6g} held)"


def _noise(sweep: Sweep) -> str:
    if not sweep.known:
        return "Too few rounds were measured for intervals: a neighbouring rate may be the knee."
    if ties := [f"{each.rate:.6g}" for each in sweep.ties]:
        return f"Its power cannot be told apart from that at {', '.join(ties)} per second."
    return "Its power is above that at every other rate beyond noise."


def _edge(sweep: Sweep) -> list[str]:
    """Whether the knee may lie outside of the sweep."""
    ends = {sweep.cells[0]: "lower", sweep.cells[-1]: "higher"}
    found = ends.get(sweep.knee)
    return [f"No {found} rate was measured: the knee may be {found}."] if found else []
