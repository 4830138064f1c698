"""The picture of the bytes that cross each cut of the plans, from the model's input to its output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.reports import charts, sections
from experiments.reports.markdown import count, line
from experiments.store import files
from partitioning.plan import Plan, PlanError, sent_bytes

LABELLED = 12
"""Up to this many cuts of a plan, each has the name of the operation behind it; more cuts make a curve."""
TITLE = "Bytes over the model's depth"
DRAWN = "Bytes of a request that cross each cut, by the number of operations before the cut"


@dataclass(frozen=True)
class Crossing:
    """A cut between two neighbouring stages, or the model's inputs (`before` is 0)."""

    before: int
    """Operations before the cut."""
    operation: str
    """The first operation behind the cut."""
    nbytes: int
    """Bytes at batch 1. A tensor counts once for each stage behind the cut that takes it."""


def crossings(plan: Plan) -> list[Crossing]:
    """The model's inputs, and then each cut between neighbouring stages, in the plan's order."""
    place = {stage.name: number for number, stage in enumerate(plan.stages)}
    found, before = [], 0
    for number, stage in enumerate(plan.stages):
        crossing = (
            (edge, sum(place[name] >= number for name in edge.consumers))
            for edge in plan.edges.values()
            if edge.producer is None or place[edge.producer] < number
        )
        found.append(Crossing(before, stage.operations[0], sum(edge.nbytes * taken for edge, taken in crossing)))
        before += len(stage.operations)
    return found


def section(folder: Path) -> list[str]:
    """The section with the picture of the plans in `folder`; empty if none of them cuts the model."""
    plans: dict[str, Plan] = {}
    unreadable = []
    for path in sorted(folder.glob(files.PLAN.format("*"))):
        try:
            plan = Plan.from_json(path.read_text(encoding="utf-8"))
            plans.setdefault(plan.to_json(), plan)  # the same plan may lie on several hosts
        except (PlanError, UnicodeDecodeError) as error:
            unreadable.append(f"{path.name} is not drawn: {line(str(error))}.")
    cut = [plan for plan in plans.values() if len(plan.stages) > 1]
    picture = sections.picture(folder / files.DEPTH, DRAWN, lambda: draw(cut)) if cut else []
    return [f"## {TITLE}", "", *picture, *unreadable] if picture or unreadable else []


def draw(plans: Sequence[Plan]) -> str:
    """A curve or a row of named stems for each of `plans`."""
    return charts.svg((9, 4.4), lambda axes: _draw(axes, plans))


def _draw(axes: Any, plans: Sequence[Plan]) -> None:
    many = max(sum(len(stage.operations) for stage in plan.stages) for plan in plans)
    for place, plan in enumerate(plans):
        found = crossings(plan)
        colour = charts.COLOURS[place % len(charts.COLOURS)]
        x, y = [each.before for each in found], [each.nbytes / 1e3 for each in found]
        label = f"{plan.mode}, {len(plan.stages)} stages, {count(sent_bytes(plan) / 1e6)} MB between them"
        if len(found) > LABELLED:
            axes.step(x, y, where="post", color=colour, linewidth=1, label=label)
            continue
        axes.vlines(x, 0, y, colors=colour, linewidth=1.5)
        axes.plot(x, y, "o", color=colour, markersize=5, label=label)
        for each in found if place == 0 else found[1:]:  # the input is the same in all plans
            side = {"ha": "right", "rotation": 0} if each.before > 0.85 * many else {"rotation": 25}
            named = each.operation if each.before else "the model's input"
            axes.annotate(named, (each.before, each.nbytes / 1e3), (3, 6), "data", "offset points", fontsize=7, **side)
    charts.logarithmic(axes.yaxis)
    axes.margins(y=0.25)
    axes.set_xlim(-0.03 * many, 1.03 * many)
    axes.set_title(f"{TITLE}: what crosses each cut, and the operation behind it", loc="left", fontsize=9)
    axes.set_xlabel(f"operations before the cut, of {many}")
    axes.set_ylabel("kilobytes at batch 1 (logarithmic)")
    axes.grid(axis="y", color="0.9")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False)
