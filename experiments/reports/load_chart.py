"""The picture of sweeps: latency against the offered rate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from experiments.reports.charts import COLOURS, logarithmic, svg
from experiments.store.knees import Sweep

PERCENTILES = {"median": ("p50", "-"), "p95": ("p95", "--"), "p99": ("p99", ":")}
"""Column of a summary -> its name and the style of its line."""


def draw(sweeps: Sequence[Sweep], labels: Sequence[str]) -> str:
    """The percentiles of each sweep by rate. Overloaded rates have hollow marks, and a star marks each knee.

    Raises `ModuleNotFoundError` if matplotlib is not installed.
    """
    return svg((9, 5.5), lambda axes: _draw(axes, sweeps, labels))


def _draw(axes: Any, sweeps: Sequence[Sweep], labels: Sequence[str]) -> None:
    for place, (sweep, label) in enumerate(zip(sweeps, labels, strict=True)):
        colour = COLOURS[place % len(COLOURS)]
        _draw_sweep(axes, sweep, colour)
        axes.plot([], [], color=colour, linewidth=2, label=label)
    for name, style in PERCENTILES.values():
        axes.plot([], [], color="0.3", linestyle=style, label=name)
    axes.plot([], [], color="0.3", linestyle="", marker="*", markersize=11, label="knee")
    hollow = {"marker": "o", "markerfacecolor": "white", "markersize": 4.5}
    axes.plot([], [], color="0.3", linestyle="", label="overloaded", **hollow)
    logarithmic(axes.yaxis)
    axes.set_xlim(left=0)
    axes.set_xlabel("requests per second that begin")
    axes.set_ylabel("milliseconds from the intended start to the answer (logarithmic)")
    axes.grid(color="0.9")
    axes.figure.legend(loc="outside upper center", ncols=4, frameon=False)


def _draw_sweep(axes: Any, sweep: Sweep, colour: str) -> None:
    rates = [each.rate for each in sweep.cells]
    for name, (_, style) in PERCENTILES.items():
        values = [1e3 * each.figures[name] for each in sweep.cells]
        axes.plot(rates, values, color=colour, linestyle=style, linewidth=1.6 if name == "median" else 1)
    values = [1e3 * each.figures["median"] for each in sweep.cells]
    faces = ["white" if each.overloaded else colour for each in sweep.cells]
    axes.scatter(rates, values, s=22, facecolors=faces, edgecolors=colour, zorder=3)
    knee = sweep.knee
    axes.plot([knee.rate], [1e3 * knee.figures["median"]], color=colour, marker="*", markersize=13, zorder=4)
    axes.annotate(
        f"{knee.rate:.6g}/s",
        (knee.rate, 1e3 * knee.figures["median"]),
        xytext=(0, -14),
        textcoords="offset points",
        ha="center",
        fontsize=8,
        color=colour,
    )
