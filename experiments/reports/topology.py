"""The picture of the hosts of an experiment and of the links between them, emulated or measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster.links.link import Link
from experiments.reports import charts, sections
from experiments.reports.machines import limits_of
from experiments.reports.markdown import number
from experiments.spec.experiment import Experiment
from experiments.store import files
from partitioning.options import JOINT

MOST = 10
"""Most hosts that a readable picture can have."""
LISTED = 3
"""Most settings of a link that its label lists; of more it gives the number."""
TITLE = "Hosts and links"
DRAWN = "The hosts with their servers and limits, and the links between them"
CLIENT = "client"
"""The name of the run's own machine in measured ways."""

Pair = frozenset[str]


def section(folder: Path, record: Mapping[str, Any], experiment: Experiment) -> list[str]:
    """The section with the picture; empty for fewer than two hosts, or more than `MOST`."""
    machines = record.get("machines") or {}
    boxes, links = boxes_of(machines), links_of(machines, experiment)
    if not 1 < len(boxes) <= MOST:
        return []
    picture = sections.picture(folder / files.TOPOLOGY, DRAWN, lambda: draw(boxes, links))
    return [f"## {TITLE}", "", *picture] if picture else []


def boxes_of(machines: Mapping[str, Any]) -> dict[str, str]:
    """Host -> the text in its box. The run's own machine has a box if ways from it were measured."""
    found = {name: _box(name, host) for name, host in machines.get("hosts", {}).items()}
    measured = {way["from"] for way in machines.get("ways", {}).get("before", ())}
    return ({CLIENT: CLIENT} if CLIENT in measured else {}) | found


def _box(name: str, host: Mapping[str, Any]) -> str:
    servers = ", ".join(map(str, host.get("servers", ())))
    lines = [name + (", with the client" if host.get("client") else "")]
    lines += [f"server{'s' if ',' in servers else ''} {servers}"] if servers else []
    lines += [f"{word} {value:g}" for word, value in limits_of(host).items() if word != "cores"]
    return "\n".join(lines)


def links_of(machines: Mapping[str, Any], experiment: Experiment) -> dict[Pair, str]:
    """Two hosts -> the links between them: the emulated links of all cells, or the links measured before the run."""
    words: dict[Pair, dict[str, None]] = {}
    for cell in experiment.cells:
        for link in map(Link.parse, filter(None, cell.link.split(JOINT))):
            pair = frozenset((link.source, link.target))
            text = str(link) if not link.both else str(link).partition(" ")[2]
            words.setdefault(pair, {})[text.replace(",", ", ")] = None
    for way in machines.get("ways", {}).get("before", ()) if not words else ():
        text = f"{number(1e3 * way['rtt'], 2)} ms, {number(way['bandwidth'] / 1e6, 2)} Mbit/s"
        words.setdefault(frozenset((way["from"], way["to"])), {})[text] = None
    return {pair: _short([*found]) for pair, found in words.items()}


def _short(words: Sequence[str]) -> str:
    listed = words if len(words) <= LISTED else [words[0], f"... {len(words) - 2} more ...", words[-1]]
    return "\n".join(listed)


def draw(boxes: Mapping[str, str], links: Mapping[Pair, str]) -> str:
    """The hosts on an ellipse, in their order, and a line for each of `links`."""
    return charts.svg((9, 2.2 if len(boxes) == 2 else 5), lambda axes: _draw(axes, boxes, links))


def _draw(axes: Any, boxes: Mapping[str, str], links: Mapping[Pair, str]) -> None:
    turns = {name: math.pi - 2 * math.pi * place / len(boxes) for place, name in enumerate(boxes)}
    places = {name: (math.cos(turn), math.sin(turn)) for name, turn in turns.items()}
    along = 0.5 if len(boxes) == 2 else 0.4  # labels of lines that cross in the middle would overlap
    for pair, words in links.items():
        if not pair <= places.keys():
            continue
        (x, y), (u, v) = (places[name] for name in boxes if name in pair)
        axes.plot([x, u], [y, v], color="0.6", linewidth=1.2, zorder=1)
        label = (x + along * (u - x), y + along * (v - y))
        axes.text(*label, words, ha="center", va="center", fontsize=7.5, bbox=PAPER)
    for name, (x, y) in places.items():
        axes.text(x, y, boxes[name], ha="center", va="center", fontsize=9, bbox=BOX)
    axes.set_xlim(-1.4, 1.4)
    axes.set_ylim(-1.3, 1.3)
    axes.set_axis_off()
    axes.set_title(TITLE, loc="left", fontsize=9)


BOX: Any = {"boxstyle": "round,pad=0.6", "facecolor": "#ffffff", "edgecolor": charts.COLOURS[0]}
PAPER: Any = {"boxstyle": "square,pad=0.3", "facecolor": "#ffffff", "edgecolor": "none"}
