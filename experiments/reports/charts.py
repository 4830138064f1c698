"""The charts of experiments, as SVG texts. matplotlib is imported only when a chart is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

COLOURS = ("#4269d0", "#efb118", "#ff725c", "#6cc5b0", "#3ca951", "#ff8ab7", "#a463f2")
SETTINGS: Any = {"svg.hashsalt": "splitbench", "svg.fonttype": "none", "font.size": 9, "axes.axisbelow": True}
"""A fixed salt and no date: the same numbers give the same bytes."""


def comparison(summary: pd.DataFrame, labels: Sequence[str], title: str) -> str:
    """Each cell's time as a multiple of the local model's, with its 95 % interval, and the source document's multiple.

    `labels`: a text for each row of `summary`. A row with an empty label, or without a ratio, is not drawn: the line at
    1 stands for the local models. Returns an empty text if no row is drawn. Raises `ModuleNotFoundError` if matplotlib
    is not installed.
    """
    rows = summary.assign(label=list(labels))
    drawn = rows[rows["ratio_to_local"].notna() & (rows["label"] != "")].reset_index(drop=True)
    if drawn.empty:
        return ""
    lines = title.count("\n") + 1
    return svg((9, 1.6 + 0.2 * lines + 0.32 * len(drawn)), lambda axes: _draw(axes, drawn, title))


def growth(summary: pd.DataFrame) -> str:
    """The median seconds of an echo by the size of its tensor, on logarithmic axes, with a line for each way.

    Returns an empty text for an empty `summary`. Raises `ModuleNotFoundError` if matplotlib is not installed.
    """
    return "" if summary.empty else svg((9, 5.5), lambda axes: _draw_growth(axes, summary))


def steps(rows: Sequence[Mapping[str, float]], labels: Sequence[str]) -> str:
    """A bar for each row, with its pieces (name -> milliseconds) one after the other; negative pieces are hatched.

    Raises `ModuleNotFoundError` if matplotlib is not installed.
    """
    return svg((9, 1.6 + 0.45 * len(rows)), lambda axes: _draw_steps(axes, rows, labels))


def heat_map(
    seconds: Sequence[Sequence[float]],
    names: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> str:
    """A field for each row and column with its milliseconds and name, coloured by the ratio to its column's minimum.

    Raises `ModuleNotFoundError` if matplotlib is not installed.
    """
    inches = (max(2.6, 1.2 + 0.07 * max(map(len, rows))) + 1.3 * len(columns), 1.9 + 0.5 * len(rows))
    return svg(inches, lambda axes: _draw_heat_map(axes, seconds, names, rows, columns, title))


def svg(inches: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """The SVG text of a figure on whose axes `draw` draws.

    The same drawing gives the same bytes. Raises `ModuleNotFoundError` if matplotlib is not installed.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=inches, layout="constrained")
        draw(figure.add_subplot())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return "\n".join(text.rstrip() for text in buffer.getvalue().splitlines()) + "\n"


def logarithmic(axis: Any) -> None:
    """Make `axis` logarithmic, with ticks at 1, 2 and 5 times the powers of ten."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _draw_growth(axes: Any, summary: pd.DataFrame) -> None:
    for place, (way, rows) in enumerate(summary.groupby("way", sort=False)):
        style = {"color": COLOURS[place % len(COLOURS)], "linestyle": ("-", "--", ":")[place // len(COLOURS) % 3]}
        axes.plot(rows["bytes"] / 1e6, rows["median"], marker="o", markersize=3.5, linewidth=1.4, label=way, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
    axes.set_title("One tensor, sent to another process and back", loc="left")
    axes.set_xlabel("size of the tensor in megabytes")
    axes.set_ylabel("seconds (median)")
    axes.grid(color="0.9")
    axes.figure.legend(loc="outside right upper", frameon=False, fontsize=8)


def _draw_heat_map(
    axes: Any,
    seconds: Sequence[Sequence[float]],
    names: Sequence[Sequence[str]],
    rows: Sequence[str],
    columns: Sequence[str],
    title: str,
) -> None:
    from matplotlib.colors import LogNorm

    least = [min(column) for column in zip(*seconds, strict=True)]
    multiples = [[value / low for value, low in zip(row, least, strict=True)] for row in seconds]
    most = max(2.0, *(value for row in multiples for value in row))
    image = axes.imshow(multiples, norm=LogNorm(1, most), cmap="YlGnBu", aspect="auto")
    for y, row in enumerate(seconds):
        for x, value in enumerate(row):
            best = value == least[x]
            dark = multiples[y][x] > most**0.55
            axes.text(
                *(x, y, f"{1e3 * value:.3g} ms\n{names[y][x]}"),
                ha="center",
                va="center",
                fontsize=7.5,
                color="white" if dark else "black",
                weight="bold" if best else "normal",
            )
    axes.set_xticks(range(len(columns)), [column.replace(", ", "\n") for column in columns], fontsize=7.5)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title, loc="left", fontsize=9)
    bar = axes.figure.colorbar(image, label="time / that of the link's fastest row (bold)")
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50, 100, 200, 500) if tick <= most]
    bar.set_ticks(ticks, labels=[f"{tick}" for tick in ticks], minor=False)
    bar.minorticks_off()


def _draw_steps(axes: Any, rows: Sequence[Mapping[str, float]], labels: Sequence[str]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    for place, row in enumerate(rows):
        start = 0.0
        for name, width in row.items():
            colour, hatch = COLOURS[names.index(name) % len(COLOURS)], None if width >= 0 else "////"
            label = name if place == 0 else None
            axes.barh(place, width, 0.6, left=start, color=colour, hatch=hatch, edgecolor="white", label=label)
            start += width
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("milliseconds of a request (hatched: negative)")
    axes.grid(axis="x", color="0.9")
    axes.figure.legend(loc="outside upper center", ncols=len(names), frameon=False)


def _draw(axes: Any, drawn: pd.DataFrame, title: str) -> None:
    places = list(range(len(drawn)))
    ratio, published = drawn["ratio_to_local"], drawn["published_ratio"]
    transports = list(dict.fromkeys(drawn["transport"]))
    colours = [COLOURS[transports.index(name) % len(COLOURS)] for name in drawn["transport"]]
    axes.axvline(1, color="0.6", linewidth=1, label="local model")
    axes.hlines(places, drawn["ratio_low"], drawn["ratio_high"], colors=colours, linewidth=2)
    measured = "measured, 95 % interval" if drawn["ratio_low"].notna().any() else "measured"
    axes.scatter(ratio, places, color=colours, s=28, zorder=3, label=measured)
    if published.notna().any():
        axes.scatter(published, places, marker="D", s=28, facecolors="none", edgecolors="0.2", label="source document")
    axes.set_yticks(places, list(drawn["label"]))
    axes.invert_yaxis()
    ratios = pd.concat([ratio, published.dropna()])
    wide = ratios.max() >= 4 * ratios.min()
    if wide:
        logarithmic(axes.xaxis)
    axes.set_xlabel("time of a request / that of the local model" + (" (logarithmic)" if wide else ""))
    axes.grid(axis="x", color="0.9")
    axes.figure.suptitle(title, x=0.01, ha="left", fontsize=9)
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False)
