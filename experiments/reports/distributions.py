"""The picture of how the seconds of single requests are distributed in each cell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.reports import charts, sections
from experiments.reports.labels import Settings
from experiments.spec.experiment import local_of
from experiments.store import files
from experiments.store.samples import cell_of
from experiments.store.statistics import groups_of

MOST = 40
"""Most cells that a readable picture can have."""
BINS, SMOOTH = 64, 1.5
"""Places at which a density is drawn, and the standard deviation of its kernel in such places."""
WIDE = 4
"""From this ratio of the largest to the smallest sample on, the axis is logarithmic."""
TITLE = "How long single requests take"
DRAWN = "The distribution of a request's time in each cell: density, quartiles, median, 99th percentile"

Floats = npt.NDArray[np.float64]


def section(folder: Path, measured: pd.DataFrame, summary: pd.DataFrame, titles: Mapping[str, str]) -> list[str]:
    """The section with the picture, cells in the order of `summary`; empty for no cells, or more than `MOST`."""
    cells = [cell_of(row) for row in sections.records(summary)]
    if not 0 < len(cells) <= MOST:
        return []
    settings, groups = Settings(cells, titles), groups_of(measured)
    samples = {settings.label(cell): 1e3 * groups[cell]["seconds"].to_numpy() for cell in cells}
    local = [cell == local_of(cell) for cell in cells]
    picture = sections.picture(folder / files.DISTRIBUTIONS, DRAWN, lambda: draw(samples, local))
    return [f"## {TITLE}", "", *picture] if picture else []


def draw(samples: Mapping[str, Floats], local: Sequence[bool]) -> str:
    """A row for each label of `samples` (milliseconds); rows of local models are grey."""
    return charts.svg((9, 1.2 + 0.36 * len(samples)), lambda axes: _draw(axes, samples, local))


def _draw(axes: Any, samples: Mapping[str, Floats], local: Sequence[bool]) -> None:
    low, high = (float(end(np.concatenate([*samples.values()]))) for end in (np.min, np.max))
    scaled = np.geomspace if low * WIDE <= high else np.linspace
    edges = scaled(0.95 * low, 1.05 * high, BINS + 1)
    for place, (values, plain) in enumerate(zip(samples.values(), local, strict=True)):
        colour = "0.6" if plain else charts.COLOURS[0]
        shape = 0.42 * density(values, edges)
        middles, seen = (edges[1:] + edges[:-1]) / 2, shape > 0.004
        axes.fill_between(middles, place - shape, place + shape, seen, color=colour, alpha=0.35, linewidth=0)
        lower, median, upper, most = np.quantile(values, [0.25, 0.5, 0.75, 0.99])
        axes.plot([lower, upper], [place, place], color=colour, linewidth=4, solid_capstyle="butt")
        axes.plot([median], [place], "|", color="black", markersize=9, markeredgewidth=1.5)
        axes.plot([most], [place], ".", color=colour, markersize=6)
    _label(axes, list(samples), scaled is np.geomspace)


def density(values: Floats, edges: Floats) -> Floats:
    """The smoothed share of `values` in each bin of `edges`, as a share of the largest: `len(edges) - 1` numbers."""
    counts, _ = np.histogram(values, edges)
    reach = np.arange(-int(3 * SMOOTH), int(3 * SMOOTH) + 1)
    smoothed = np.convolve(counts, np.exp(-0.5 * (reach / SMOOTH) ** 2), mode="same")
    shares: Floats = smoothed / smoothed.max()
    return shares


def _label(axes: Any, labels: Sequence[str], logarithmic: bool) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.xaxis.set_major_formatter("{x:g}")
    if logarithmic:
        charts.logarithmic(axes.xaxis)
    axes.set_title(
        f"{TITLE}: density, quartiles (bar), median (line) and 99th percentile (dot)", loc="left", fontsize=9
    )
    axes.set_xlabel(f"milliseconds of a request{' (logarithmic)' if logarithmic else ''}")
    axes.grid(axis="x", color="0.9")
