"""The charts of experiments. matplotlib is imported here and nowhere else, and only when a chart is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pandas as pd

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2")
SETTINGS: Any = {"svg.hashsalt": "splitbench", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True}
"""A fixed salt and no date make the same numbers the same bytes."""


def comparison(summary: pd.DataFrame) -> str:
    """An SVG: how many times local each cell takes, its 95 % interval, and what the document published for it.

    Empty where no cell has a ratio. Raises `ModuleNotFoundError` where matplotlib is not installed.
    """
    drawn = summary[summary["ratio_to_local"].notna()].reset_index(drop=True)
    if drawn.empty:
        return ""
    return _svg((9, 1.4 + 0.32 * len(drawn)), lambda axes: _draw(axes, drawn))


def growth(summary: pd.DataFrame) -> str:
    """An SVG: the median seconds of an echo by the size of its tensor, both logarithmic, a line for each way.

    Raises `ModuleNotFoundError` where matplotlib is not installed.
    """
    return _svg((9, 5.5), lambda axes: _draw_growth(axes, summary))


def _svg(inches: tuple[float, float], draw: Callable[[Any], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(text.rstrip() for text in buffer.getvalue().splitlines()) + "\n"


def _draw_growth(axes: Any, summary: pd.DataFrame) -> None:
    for place, (way, rows) in enumerate(summary.groupby("way", sort=False)):
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": ("-", "--")[place // len(COLOURS) % 2]}
        axes.plot(rows["bytes"] / 1e6, rows["median"], marker="o", markersize=3.5, linewidth=1.4, label=way, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_xlabel("megabytes of the tensor, which goes there and comes back")
    axes.set_ylabel("median seconds")
    axes.grid(color="0.9")
    axes.legend(frameon=False)


def _draw(axes: Any, drawn: pd.DataFrame) -> None:
    places = list(range(len(drawn)))
    ratio = drawn["ratio_to_local"]
    transports = list(dict.fromkeys(drawn["transport"]))
    colours = [COLOURS[transports.index(name) % len(COLOURS)] for name in drawn["transport"]]
    axes.axvline(1, color="0.6", linewidth=1)
    axes.hlines(places, drawn["ratio_low"], drawn["ratio_high"], colors=colours, linewidth=2)
    axes.scatter(ratio, places, color=colours, s=28, zorder=3, label="measured, 95 % interval")
    if drawn["published_ratio"].notna().any():
        axes.scatter(
            drawn["published_ratio"], places, marker="D", s=28, facecolors="none", edgecolors="0.2", label="published"
        )
    axes.set_yticks(places, list(drawn["cell"]))
    axes.invert_yaxis()
    axes.set_xlabel("times the local model" + _logarithmic_where_wide(axes, drawn))
    axes.grid(axis="x", color="0.9")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)


def _logarithmic_where_wide(axes: Any, drawn: pd.DataFrame) -> str:
    """Make the axis logarithmic where the ratios span much, and say so."""
    from matplotlib.ticker import LogLocator, NullLocator

    ratios = pd.concat([drawn["ratio_to_local"], drawn["published_ratio"].dropna()])
    if ratios.max() < 4 * ratios.min():
        return ""
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    return " (logarithmic)"
