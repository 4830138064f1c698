"""The answer of a report: a few sentences of plain text, derived from the samples, with their uncertainty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import pandas as pd

from experiments.reports.labels import Settings, transport_title
from experiments.reports.link_map import LinkMap, Winner, place, short, winners
from experiments.reports.markdown import ABSENT, interval, number
from experiments.reports.sections import Row, records
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store.intervals import seconds_of
from experiments.store.samples import cell_of
from experiments.store.statistics import groups_of, ratio_of
from transports.packing import is_lossless

NAMED = 4
"""Most cells that a sentence names; it gives only the number of the others."""
LONGEST = 120
"""The question lists the values of a setting in at most this many characters; else it gives the number of values."""
WORK = ("batch", "concurrency", "load")
"""Settings that determine the work of a cell."""
NOTHING = "No request was timed, so there is no answer."
PARTIAL = "The run is incomplete: this answer is derived from what it measured until it ended."
ALIKE = "the 95 % interval of the ratio of their times contains 1"
NOISE = "beyond noise"


@dataclass(frozen=True)
class Rival:
    """A cell compared with the fastest cell: the ratio of their means, paired by round, and its interval."""

    cell: Cell
    ratio: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return self.low == self.low

    @property
    def tied(self) -> bool:
        return self.low <= 1 <= self.high


def question(experiment: Experiment, titles: Mapping[str, str]) -> str:
    """The question that the experiment answers, in one sentence."""
    compared = [cell for cell in experiment.cells if cell != local_of(cell)] or list(experiment.cells)
    settings = Settings(compared, titles)
    many = f"{len(compared)} cell{'s' if len(compared) != 1 else ''}"
    differing = "; ".join(_values(settings, compared, name) for name in settings.differing)
    model = f"{experiment.model} ({experiment.weights} weights)"
    if experiment.kill:
        return f"How long is the outage after a node of {model} is killed ({experiment.kill}), in {many}: {differing}?"
    return f"How long does a request to {model} take, beside the local model, in {many}: {differing}?"


def _values(settings: Settings, cells: Sequence[Cell], name: str) -> str:
    """`"transport gRPC, RPyC"`; the number of the values if there are many."""
    show = {"transport": lambda cell: transport_title(cell.transport), "link": lambda cell: cell.link}.get(
        name, lambda cell: settings.value(cell, name)
    )
    shown = [value for value in dict.fromkeys(map(show, cells)) if value not in ("", ABSENT)]
    title, listed = name.replace("_", "-"), ", ".join(shown)
    return f"{title} {listed}" if len(listed) <= LONGEST else f"{len(shown)} values of {title}"


def answer(
    experiment: Experiment,
    measured: pd.DataFrame,
    summary: pd.DataFrame,
    titles: Mapping[str, str],
    complete: bool,
    recoveries: Sequence[Mapping[str, Any]] = (),
    knees: Sequence[str] = (),
) -> list[str]:
    """The sentences; a sentence of several lines ends in a list. `recoveries`: the outcomes of kills, if the experiment
    has any. `knees`: sentences about sweeps of rates, whose cells `summary` lacks."""
    if summary.empty and not knees:
        return [NOTHING]
    if experiment.kill:
        found = _outages(recoveries, measured)
    elif mapped := LinkMap.of(experiment, measured):
        found = _over_links(winners(mapped, experiment.seed), Settings(mapped.rows, titles))
    else:
        found = [*knees, *([] if summary.empty else _fastest(experiment, measured, summary, titles))]
    return [*found, *_lossy(summary), *([] if complete else [PARTIAL])]


def _lossy(summary: pd.DataFrame) -> list[str]:
    """How far the answers of lossy packings are from the local model's."""
    worst: dict[str, float] = {}
    for row in records(summary):
        if not is_lossless(wire := cell_of(row).wire):
            worst[wire] = min(worst.get(wire, 1.0), row["cosine"])
    if not worst:
        return []
    listed = ", ".join(
        f"{wire} {number(cosine, 2)}" for wire, cosine in sorted(worst.items(), key=lambda each: each[1])
    )
    return [f"Lossy packings change the answers: the smallest cosine with the local model's is {listed}."]


def _fastest(
    experiment: Experiment, measured: pd.DataFrame, summary: pd.DataFrame, titles: Mapping[str, str]
) -> list[str]:
    rows = {cell_of(row): row for row in records(summary)}
    compared = [cell for cell in rows if cell != local_of(cell)]
    candidates = [cell for cell in compared if cell.transport != "none"] or compared
    if not candidates:
        means = ", ".join(number(row["mean"], 3) for row in rows.values())
        return [f"Only the local model was measured: a request takes {means} s on average."]
    groups, samples = _same_work(candidates), groups_of(measured)
    settings = Settings(list(rows), titles)
    sentences = []
    for cells in groups:
        best, *others = sorted(cells, key=lambda cell: float(rows[cell]["mean"]))
        below = seconds_of(samples[best])
        rivals = [
            Rival(cell, *ratio_of(cell, best, seconds_of(samples[cell]), below, experiment.seed)) for cell in others
        ]
        text = " ".join([_first(settings.label(best), rows[best], len(cells)), *_beside(rivals, settings)])
        sentences.append(f"{_work(cells[0], settings)}{text}" if len(groups) > 1 else text)
    return sentences


def _same_work(cells: Iterable[Cell]) -> list[list[Cell]]:
    """The cells grouped by their work: only times of the same batch and load can be compared."""
    groups: dict[tuple[object, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(tuple(getattr(cell, name) for name in WORK), []).append(cell)
    return list(groups.values())


def _work(cell: Cell, settings: Settings) -> str:
    names = [name for name in WORK if name in settings.differing and getattr(cell, name) != ""]
    return f"With {', '.join(settings.word(cell, name) for name in names)}: "


def _first(label: str, row: Row, many: int) -> str:
    """The fastest cell, and its time compared with the local model's."""
    kind = "cells without a transport" if row["transport"] == "none" else "cells with a transport"
    named = f"{label} is the fastest of {many} {kind}" if many > 1 else label
    mean = f"{number(1e3 * row['mean'], 3)} ms on average"
    if row["ratio_to_local"] != row["ratio_to_local"]:
        return f"{named}: a request takes {mean}; its local model was not measured."
    between = interval(row["ratio_low"], row["ratio_high"])
    known = f" (95 % interval {between})" if between != ABSENT else ""
    times = f"{number(row['ratio_to_local'], 4)} times as long as with the local model{known}"
    return f"{named}: a request takes {times}, {mean}."


def _beside(rivals: Sequence[Rival], settings: Settings) -> list[str]:
    """The rivals that do not differ from the fastest cell beyond noise, and the next rival that does."""
    if not rivals:
        return []
    known = [rival for rival in rivals if rival.known]
    if not known:
        return ["Too few rounds were measured for intervals, so its lead may be noise."]
    tied = [settings.label(rival.cell) for rival in known if rival.tied]
    slower = [rival for rival in known if not rival.tied]
    found = [f"No difference {NOISE} from {_listed(tied)}: {ALIKE}."] if tied else []
    if slower:
        least = slower[0]
        text = f"{number(least.ratio, 4)} times as long as that ({interval(least.low, least.high)})"
        found.append(f"The next, {settings.label(least.cell)}, takes {text}.")
    return found


def _listed(labels: Sequence[str]) -> str:
    rest = len(labels) - NAMED
    return "; ".join([*labels[:NAMED], *([f"{rest} more"] if rest > 0 else [])])


def _over_links(found: Sequence[Winner], settings: Settings) -> list[str]:
    """Each winner, and a line for each link over which it wins: how it compares with the second."""
    won: dict[str, list[str]] = {}
    for each in found:
        name = f"{place(settings, each.first)} ({transport_title(each.cell.transport)})"
        between = interval(each.low, each.high)
        known = f" (95 % interval {between})" if between != ABSENT else ""
        noise = f"; no difference {NOISE}" if each.low <= 1 <= each.high else ""
        next_one = f"{number(each.ratio, 3)} times as long as {place(settings, each.second)}{known}{noise}"
        won.setdefault(name, []).append(f"{short(each.link)}: {next_one}")
    sentences = []
    for name, links in sorted(won.items(), key=lambda item: -len(item[1])):
        lead = f"{name[:1].upper()}{name[1:]} is the fastest over"
        many = "\n".join([f"{lead} {len(links)} of {len(found)} links:", *links])
        sentences.append(many if len(links) > 1 else f"{lead} {links[0]}.")
    return sentences


def _outages(recoveries: Sequence[Mapping[str, Any]], measured: pd.DataFrame) -> list[str]:
    if not recoveries:
        return ["No node was killed."]
    cells = {cell.name: cell for cell in groups_of(measured)}
    settings = Settings(list(cells.values()))

    def named(kill: Mapping[str, Any]) -> str:
        return settings.label(cells[kill["cell"]]) if kill["cell"] in cells else str(kill["cell"])

    answered = sorted(
        (kill for kill in recoveries if kill["answered"] == kill["answered"]), key=lambda k: k["answered"]
    )
    failed, repeated = (sum(int(kill[name]) for kill in recoveries) for name in ("failed", "repeated"))
    many = f"{len(recoveries)} node{'s were' if len(recoveries) > 1 else ' was'} killed"
    lost = f"{failed} request{'s' if failed != 1 else ''} failed, and {repeated} {'were' if repeated != 1 else 'was'} "
    sentences = [f"{many}; {lost}repeated."]
    if answered:
        middle = median(kill["answered"] for kill in answered)
        ends = " and ".join(
            f"{word} with {named(kill)} ({number(kill['answered'], 3)} s)"
            for word, kill in (("soonest", answered[0]), ("latest", answered[-1]))
        )
        sentences.append(f"The first answer came {number(middle, 3)} s after a kill (median); {ends}.")
    if silent := len(recoveries) - len(answered):
        sentences.append(f"After {silent} of the kills no request was answered.")
    longest = max(kill["undisturbed"] for kill in recoveries)
    return [*sentences, f"After at most {number(longest, 3)} s no request failed or was repeated any more."]
