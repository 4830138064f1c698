"""An advice as rows, for the terminal, advice.csv and advice.md.

Columns of advice.csv (units in brackets): `rank`, `hosts` (in order, with +), `cut` (the first operation of each later
group, with +; empty: no cut), `transport`, `seconds` [s, of a request alone], `low`, `high` [s, the 95 % interval of
the prediction], `per_second` [requests/s of a pipeline that is kept full], `busiest` (the part that limits this rate),
`compute_seconds`, `message_seconds`, `link_seconds` [s], `sent_bytes` [B], `memory_bytes` [B, of the largest process].
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.reports.labels import transport_title
from experiments.reports.markdown import line, number, table
from experiments.store import rows
from experiments.store.profile import MISFIT
from partitioning.advice import GOALS, Advice, Candidate
from partitioning.changes import BANDWIDTHS, DELAYS, changes
from partitioning.cost_model import CostModel
from partitioning.part_costs import Path

COLUMNS = (
    *("rank", "hosts", "cut", "transport", "seconds", "low", "high", "per_second", "busiest"),
    *("compute_seconds", "message_seconds", "link_seconds", "sent_bytes", "memory_bytes"),
)
HEADINGS = ("Where", "Transport", "ms", "95 %", "per s", "compute", "messages", "link", "kB", "busiest")
"""The headings of the table on a terminal and in advice.md."""


def row(rank: int, item: Candidate, model: CostModel) -> dict[str, Any]:
    """The row of advice.csv."""
    cost, seconds = item.cost, item.cost.seconds
    return {
        "rank": rank,
        "hosts": "+".join(item.placed.hosts),
        "cut": cut_of(model, item),
        "transport": item.placed.transport,
        "seconds": seconds.value,
        "low": max(0.0, seconds.low),
        "high": seconds.high,
        "per_second": 1 / cost.interval if cost.interval else math.inf,
        "busiest": cost.busiest,
        "compute_seconds": cost.compute,
        "message_seconds": cost.messages,
        "link_seconds": cost.links,
        "sent_bytes": cost.sent,
        "memory_bytes": max(cost.memory.values()),
    }


def cut_of(model: CostModel, item: Candidate) -> str:
    """The cut as `--cut` takes it."""
    return "+".join(model.graph.operations[at].name for at in item.placed.cuts)


def where(model: CostModel, item: Candidate) -> str:
    """`"whole on edge"`, `"edge | conv_2 on cloud"`."""
    first, *others = item.placed.hosts
    if not others:
        return f"whole on {first}"
    names = [model.graph.operations[at].name for at in item.placed.cuts]
    return " | ".join([first, *(f"{name} on {host}" for name, host in zip(names, others, strict=True))])


def cells(model: CostModel, item: Candidate) -> list[str]:
    """The texts under `HEADINGS`."""
    cost, seconds = item.cost, item.cost.seconds
    parts = [number(1e3 * value, 3) for value in (cost.compute, cost.messages, cost.links)]
    return [
        where(model, item),
        transport_title(item.placed.transport),
        number(1e3 * seconds.value, 4),
        f"{number(1e3 * max(0.0, seconds.low), 3)} to {number(1e3 * seconds.high, 3)}",
        number(1 / cost.interval, 3) if cost.interval else "-",
        *parts,
        number(cost.sent / 1e3, 3),
        cost.busiest,
    ]


def as_csv(advice: Advice, model: CostModel) -> str:
    return rows.as_csv(COLUMNS, (row(rank, item, model) for rank, item in enumerate(advice.pool, 1)))


def as_markdown(advice: Advice, model: CostModel, title: str, notes: Sequence[str]) -> str:
    body = [[line(cell) for cell in cells(model, item)] for item in advice.ranked]
    return "\n".join([f"# {line(title)}", "", *table(HEADINGS, body, left=2), "", *(f"- {note}" for note in notes), ""])


def notes(advice: Advice, model: CostModel, goal: str) -> list[str]:
    """The notes below the table."""
    value = advice.best.value(goal)[0]
    found = [
        f"{transport_title(name)}: its messages do not grow evenly with their bytes (half of them are "
        f"{100 * cost.misfit:.0f} % or more off), so that its rows are rough and no run corrects them"
        for name, cost in model.transports.items()
        if cost.misfit > MISFIT
    ]
    if advice.bound < value * (1 - 1e-6):
        found.append(f"no cut at the profiled positions is more than {100 * (1 - advice.bound / value):.2g} % better")
    alike = set(model.paths.values())
    if len(alike) > 1:
        return [*found, "the links differ: ask with one link to see where the best cut changes"]
    for path in alike:
        found.append(_changes(advice, model, goal, path, "bandwidth", BANDWIDTHS))
        found.append(_changes(advice, model, goal, path, "delay", DELAYS))
    return found


def _changes(advice: Advice, model: CostModel, goal: str, path: Path, name: str, values: Sequence[float]) -> str:
    """`"another cut is best below 12 Mbit/s (whole on edge)"`."""
    title, text = KINDS[name]
    sides = zip(("below", "above"), changes(advice, goal, path, name, values), strict=True)
    found = [f"{side} {text(change.at)} ({where(model, change.then)})" for side, change in sides if change]
    return f"{title}: another cut is best {', and '.join(found)}" if found else f"{title}: the same cut is best at any"


def _rate(value: float) -> str:
    return f"{number(value / 1e6, 3)} Mbit/s"


def _round_trip(value: float) -> str:
    return f"{number(2e3 * value, 3)} ms"


KINDS: Mapping[str, tuple[str, Any]] = {"bandwidth": ("bandwidth", _rate), "delay": ("round trip", _round_trip)}
GOAL_TITLES = {GOALS[0]: "fewest seconds of a request", GOALS[1]: "most requests per second"}
