"""The section of an experiment with packed tensors (`--wire`): what packing costs and saves, and where it pays.

Each cell with a packing is compared with the same cell without one. The **break-even bandwidth** is

    bits saved per request / seconds of packing and unpacking per request

On a link below this bandwidth, sending the saved bytes would take longer than packing and unpacking takes. The
break-even bandwidth depends on the processors and not on the link, so the cells of all links are taken together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.reports.engine_titles import Titles
from experiments.reports.labels import Settings, transport_title
from experiments.reports.link_map import place, short
from experiments.reports.markdown import ABSENT, count, interval, line, number, table
from experiments.spec.experiment import Cell, Experiment
from experiments.store.intervals import ratio_interval, seconds_of
from experiments.store.statistics import groups_of, ratio_of
from transports.packing import is_lossless

FLOOR = 0.9
"""Cosine below which the section warns of answers that differ much."""
COSTS = ("Cell", "Wire", "Raw (MB)", "Packed (MB)", "Ratio", "Pack (ms)", "Unpack (ms)", "Pays below (Mbit/s)", "95 %")
LOSSES = ("Largest error", "Cosine", "Top-1")
KINDS: Mapping[bool, str] = {True: "lossless", False: "lossy"}
FREE = "no link"
"""The head of the column of cells without an emulated link."""
RANDOM = (
    "With random weights top-1 agreement means nothing, and a random network may amplify an error far more than a "
    "trained one"
)


@dataclass(frozen=True)
class Packing:
    """A cell with a packing, over all links over which it was measured."""

    cell: Cell
    """Without its link."""
    samples: pd.DataFrame
    ratios: Mapping[str, tuple[float, float, float]]
    """Link -> time of a request with the packing over that without one, and both ends of its interval."""

    @property
    def lossless(self) -> bool:
        return is_lossless(self.cell.wire)

    def mean(self, column: str) -> float:
        return float(self.samples[column].mean())

    def break_even(self, seed: int) -> tuple[float, float, float]:
        """Mbit/s below which the packing pays, and both ends of its 95 % interval, paired by round or block.

        0, without an interval, for a packing that saves nothing.
        """
        samples = self.samples
        saved = seconds_of(samples.assign(seconds=8e-6 * (samples["raw_bytes"] - samples["packed_bytes"])))
        spent = seconds_of(samples.assign(seconds=samples["pack_seconds"] + samples["unpack_seconds"]))
        if min(saved.sums.min(), spent.sums.min()) <= 0:
            return 0.0, math.nan, math.nan
        return saved.mean / spent.mean, *ratio_interval(saved, spent, np.random.default_rng(seed))


def packings(experiment: Experiment, measured: pd.DataFrame) -> list[Packing]:
    """Every cell with a packing, in the experiment's order, if the same cell without packing was measured too."""
    groups = groups_of(measured)
    found: dict[Cell, dict[Cell, Cell]] = {}
    for cell in experiment.cells:
        twin = replace(cell, wire=Cell.wire)
        if cell != twin and {cell, twin} <= groups.keys():
            found.setdefault(replace(cell, link=""), {})[cell] = twin
    seconds, seed = {cell: seconds_of(group) for cell, group in groups.items()}, experiment.seed
    return [
        Packing(
            key,
            pd.concat([groups[cell] for cell in pairs]),
            {cell.link: ratio_of(cell, twin, seconds[cell], seconds[twin], seed) for cell, twin in pairs.items()},
        )
        for key, pairs in found.items()
    ]


def section(experiment: Experiment, measured: pd.DataFrame, titles: Titles) -> list[str]:
    """The tables, and the answer for lossless and lossy packings; empty without packings."""
    if not (found := packings(experiment, measured)):
        return []
    settings = Settings([replace(packing.cell, wire=Cell.wire) for packing in found], titles)
    labels = {packing.cell: line(_label(settings, packing.cell)) for packing in found}
    lines = ["## Packed tensors: below which bandwidth they pay", ""]
    for lossless in KINDS:
        if chosen := [packing for packing in found if packing.lossless == lossless]:
            lines += [*_answer(chosen, labels, experiment.seed), "", *_costs(chosen, labels, experiment.seed), ""]
    lines += ["Time of a request with packing over the time without (95 %); below 1 packing is faster:", ""]
    lines += _over_links(found, labels)
    return [*lines, *(["", *(f"- {line(text)}" for text in settings.legend())] if settings.legend() else [])]


def _label(settings: Settings, cell: Cell) -> str:
    """What distinguishes the cell, apart from its packing."""
    where = place(settings, replace(cell, wire=Cell.wire))
    return f"{transport_title(cell.transport)}, {where}"


def _answer(chosen: Sequence[Packing], labels: Mapping[Cell, str], seed: int) -> list[str]:
    """The bandwidth up to which a packing of this kind pays at each place, and a description of its losses."""
    kind = KINDS[chosen[0].lossless]
    found: dict[str, list[Packing]] = {}
    for packing in chosen:
        found.setdefault(labels[packing.cell], []).append(packing)
    lines = [f"**{kind.capitalize()}** packing pays below these bandwidths, each that of the best packing:", ""]
    lines += [f"- {label}: {_best(packings, seed)}" for label, packings in found.items()]
    return [*lines, "", _checked(chosen, labels)]


def _best(chosen: Sequence[Packing], seed: int) -> str:
    """The highest break-even bandwidth: `"171 Mbit/s by blosc2 (95 %: 147.7 to 198.5)"`."""
    (bandwidth, low, high), wire = max((packing.break_even(seed), packing.cell.wire) for packing in chosen)
    if not bandwidth:
        return "none, since nothing is saved"
    within = "" if math.isnan(low) else f" (95 %: {interval(low, high)})"
    return f"{number(bandwidth, 3)} Mbit/s by {wire}{within}"


def _checked(chosen: Sequence[Packing], labels: Mapping[Cell, str]) -> str:
    """The checks that the answers of cells of one kind have passed."""
    if chosen[0].lossless:
        return "Every answer passed the check of answers that are not packed."
    text = "Answers failed only for a wrong shape or dtype, or a value that is not finite: there is no tolerance."
    far = [f"{packing.cell.wire} ({labels[packing.cell]})" for packing in chosen if _least_cosine(packing) < FLOOR]
    return f"{text} {RANDOM}." + (f" **Answers differ much** (cosine below {FLOOR}): {', '.join(far)}." if far else "")


def _least_cosine(packing: Packing) -> float:
    return float(packing.samples["cosine"].min())


def _costs(chosen: Sequence[Packing], labels: Mapping[Cell, str], seed: int) -> list[str]:
    header = COSTS if chosen[0].lossless else (*COSTS, *LOSSES)
    return table(header, [_row(packing, labels[packing.cell], seed) for packing in chosen], left=2)


def _row(packing: Packing, label: str, seed: int) -> list[str]:
    raw, packed = packing.mean("raw_bytes"), packing.mean("packed_bytes")
    bandwidth, low, high = packing.break_even(seed)
    row = [label, packing.cell.wire, count(raw / 1e6), count(packed / 1e6), number(raw / packed if packed else 1, 3)]
    row += [number(1e3 * packing.mean(name), 3) for name in ("pack_seconds", "unpack_seconds")]
    row += [number(bandwidth, 3), interval(low, high)]
    if packing.lossless:
        return row
    error = f"{packing.samples['deviation'].max():.1e}"
    return [*row, error, number(_least_cosine(packing), 5), number(packing.mean("top1"), 3)]


def _over_links(found: Sequence[Packing], labels: Mapping[Cell, str]) -> list[str]:
    links = list(dict.fromkeys(link for packing in found for link in packing.ratios))
    heads = [line(short(link)) if link else FREE for link in links]
    rows = [[labels[each.cell], each.cell.wire, *(_ratio(each, link) for link in links)] for each in found]
    return table(["Cell", "Wire", *heads], rows, left=2)


def _ratio(packing: Packing, link: str) -> str:
    if link not in packing.ratios:
        return ABSENT
    ratio, low, high = packing.ratios[link]
    return number(ratio, 3) if math.isnan(low) else f"{number(ratio, 3)} ({number(low, 3)} to {number(high, 3)})"
