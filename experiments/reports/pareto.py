"""The section about latency against throughput: the cells that no other cell beats in both."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reports import sections
from experiments.reports.charts import COLOURS, logarithmic, svg
from experiments.reports.labels import Settings
from experiments.reports.markdown import line, number, table
from experiments.reports.sections import Row, records
from experiments.spec.experiment import Cell, local_of
from experiments.store import files
from experiments.store.loaded import overloaded
from experiments.store.samples import cell_of

LEAST = 3
"""Least cells of a picture."""
VARIED = ("batch", "concurrency", "load")
"""One of these settings has to vary: with one request at a time, throughput is only the inverse of latency."""
WIDE = 4
"""From this ratio of the largest to the smallest value on, an axis is logarithmic."""
LABELLED = 12
"""Cells of the front that the picture labels; the table has all."""
HEADER = ("Cell", "Throughput (samples/s)", "p50 (ms)", "p95 (ms)")


@dataclass(frozen=True)
class Point:
    """A cell: samples that are answered per second, and seconds of latency."""

    cell: Cell
    throughput: float
    median: float
    p95: float
    overloaded: bool = False
    """The latency of an overloaded cell grows for as long as the load lasts, so it is never on the front."""

    @property
    def reference(self) -> bool:
        """Whether the cell has no transport, and so is no candidate."""
        return self.cell.transport == "none"


def points_of(rows: Sequence[Row]) -> list[Point]:
    """The points of a summary's rows. Those without a throughput are left out."""
    found = []
    for row in rows:
        cell = cell_of(row)
        if not math.isnan(row["throughput"]):
            throughput = row["throughput"] * cell.batch
            found.append(Point(cell, throughput, row["median"], row["p95"], overloaded(row)))
    return found


def front(points: Sequence[Point]) -> list[Point]:
    """The candidates that no other candidate beats in throughput or median without being worse in the other.

    Ascending by throughput. Cells that are equal in both are both on the front. Without a cell that has a transport,
    the cells without one are the candidates.
    """
    steady = [point for point in points if not point.overloaded and point.cell != local_of(point.cell)]
    candidates = [point for point in steady if not point.reference] or steady
    kept = [point for point in candidates if not any(_beats(other, point) for other in candidates)]
    return sorted(kept, key=lambda point: (point.throughput, point.median))


def _beats(one: Point, other: Point) -> bool:
    as_good = one.throughput >= other.throughput and one.median <= other.median
    return as_good and (one.throughput, one.median) != (other.throughput, other.median)


def telling(points: Sequence[Point]) -> bool:
    """Whether throughput says more than latency does: there are enough cells, and batch or load varies."""
    compared = [point.cell for point in points if point.cell != local_of(point.cell)]
    varied = any(len({getattr(cell, name) for cell in compared}) > 1 for name in VARIED)
    return len(compared) >= LEAST and varied


def section(summary: pd.DataFrame, folder: Path, titles: Mapping[str, str]) -> list[str]:
    """The lines of the section, and its picture in `folder`; empty if it says nothing."""
    points = points_of(records(summary))
    if not telling(points) or not (best := front(points)):
        return []
    settings = Settings([point.cell for point in points], titles)
    body = [
        [line(settings.label(each.cell)), *(number(value, 4) for value in figures)]
        for each in best
        for figures in [(each.throughput, 1e3 * each.median, 1e3 * each.p95)]
    ]
    description = "Latency against throughput of every cell, with those that no other cell beats in both"
    return [
        *("## Latency against throughput", ""),
        f"{len(best)} of {sum(point.cell != local_of(point.cell) for point in points)} cells are on the Pareto front: "
        "no other cell answers as many samples per second with as low a median. Cells that are close may be there by "
        "chance.",
        *("", *sections.picture(folder / files.PARETO, description, lambda: draw(points, settings)), ""),
        *table(HEADER, body),
    ]


def draw(points: Sequence[Point], settings: Settings) -> str:
    """A dot for each cell at its median, a line up to its p95, and the front as steps, its cells labelled.

    Raises `ModuleNotFoundError` if matplotlib is not installed.
    """
    return svg((10, 5.5), lambda axes: _draw(axes, points, front(points), settings))


def _draw(axes: Any, points: Sequence[Point], best: Sequence[Point], settings: Settings) -> None:
    for (name, found), style in zip(_kinds(points, best).items(), STYLES, strict=True):
        if found:
            x, y = [point.throughput for point in found], [1e3 * point.median for point in found]
            tops = [1e3 * point.p95 for point in found]
            axes.vlines(x, y, tops, colors=style["edgecolors"], linewidth=0.7, alpha=0.6)
            axes.scatter(x, y, label=f"{name} ({len(found)})", zorder=3, **style)
    x, y = [point.throughput for point in best], [1e3 * point.median for point in best]
    axes.step(x, y, where="pre", color=COLOURS[0], linewidth=1)
    kinds = axes.get_legend_handles_labels()
    _label(axes, best, settings)
    for name, axis in (("throughput", axes.xaxis), ("median", axes.yaxis)):
        axis.set_major_formatter("{x:g}")
        values = [float(getattr(point, name)) for point in points]
        if max(values) >= WIDE * min(values) > 0:
            logarithmic(axis)
    axes.set_xlabel("samples answered per second")
    axes.set_ylabel("milliseconds of a request: median, and a line to p95")
    axes.grid(color="0.9")
    axes.figure.legend(*kinds, loc="outside upper left", ncols=len(STYLES), frameon=False)


def _kinds(points: Sequence[Point], best: Sequence[Point]) -> dict[str, list[Point]]:
    """Name of a kind of cell -> its points; the kinds are those of `STYLES`."""
    rest = [point for point in points if point not in best]
    return {
        "local model, or no transport": [point for point in rest if point.reference],
        "overloaded": [point for point in rest if point.overloaded and not point.reference],
        "other cells": [point for point in rest if not point.overloaded and not point.reference],
        "Pareto front": list(best),
    }


def _label(axes: Any, best: Sequence[Point], settings: Settings) -> None:
    """Write a number into each dot of the front, and at the right the cell for which it stands."""
    handles = []
    for place, point in enumerate(_spread(best), 1):
        at = (point.throughput, 1e3 * point.median)
        axes.annotate(f"{place}", at, ha="center", va="center", fontsize=6.5, color="white", zorder=4)
        handles += axes.plot([], [], linestyle="", label=f"{place}  {settings.label(point.cell)}")
    axes.figure.legend(handles=handles, loc="outside right upper", handlelength=0, frameon=False, fontsize=8)


STYLES: tuple[Mapping[str, Any], ...] = (
    {"facecolors": "white", "edgecolors": "0.5", "s": 16, "marker": "s"},
    {"facecolors": "white", "edgecolors": COLOURS[2], "s": 14, "marker": "o"},
    {"facecolors": "0.6", "edgecolors": "0.6", "s": 12, "marker": "o"},
    {"facecolors": COLOURS[0], "edgecolors": COLOURS[0], "s": 80, "marker": "o"},
)
"""How each kind of cell is drawn."""


def _spread(best: Sequence[Point]) -> list[Point]:
    """At most `LABELLED` points, evenly chosen, with the first and the last."""
    if len(best) <= LABELLED:
        return list(best)
    return [best[round(place * (len(best) - 1) / (LABELLED - 1))] for place in range(LABELLED)]
