"""The picture of the phases of a request: a stacked bar for each hop of each cell, as an SVG text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports import charts
from experiments.store.phases import PHASES

COLOURS: Mapping[str, str] = dict(
    zip(
        ("compute", "send", "route", "decode", "encode", "queue", "lookup", "connect", "wake", "other"),
        (*charts.COLOURS, "#9c6b4e", "#97bbf5", "#9498a0"),
        strict=True,
    )
)
"""Phase -> colour, in the order in which a bar is stacked."""
assert COLOURS.keys() == set(PHASES)

Bars = Sequence[tuple[str, Mapping[str, Mapping[str, float]]]]
"""(label of a cell, hop -> phase -> seconds), from the top down."""


def draw(bars: Bars) -> str:
    """Raises `ModuleNotFoundError` if matplotlib is not installed. Returns an empty text without bars."""
    lines = sum(1 + len(hops) for _, hops in bars)
    return charts.svg((9, 1.4 + 0.24 * lines), lambda axes: _draw(axes, bars)) if bars else ""


def _draw(axes: Any, bars: Bars) -> None:
    found = {name for _, hops in bars for phases in hops.values() for name, seconds in phases.items() if seconds}
    shown = [name for name in COLOURS if name in found]
    labels: list[tuple[float, str]] = []
    place = 0.0
    for label, hops in bars:
        axes.text(0, place, label, fontsize=9, weight="bold", va="center")
        for hop, phases in hops.items():
            place += 1
            labels.append((place, hop.replace("-", " ")))
            start = 0.0
            for name in shown:
                width = 1e3 * phases[name]
                axes.barh(place, width, 0.8, left=start, color=COLOURS[name], edgecolor="white", linewidth=0.4)
                start += width
        place += 1
    axes.set_yticks([at for at, _ in labels], [text for _, text in labels])
    axes.set_ylim(place - 0.4, -0.8)
    axes.set_xlabel("milliseconds of a request")
    axes.grid(axis="x", color="0.9")
    handles = [axes.barh(0, 0, color=COLOURS[name]) for name in shown]
    axes.figure.legend(handles, shown, loc="outside upper center", ncols=min(5, len(shown)), frameon=False)
