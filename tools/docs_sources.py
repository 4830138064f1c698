"""Values of results/reference, from which the figures in the prose of README.md and docs/ are derived."""

from __future__ import annotations

import functools
from pathlib import Path

import pandas as pd

from experiments.reports import ladder as ladders
from experiments.reports import sections
from experiments.reports.sections import Row
from experiments.sizes import report as sizes
from experiments.sizes.measure import MB
from experiments.sizes.ratios import ratios
from experiments.spec.experiment import local_of
from experiments.store import files, samples
from experiments.store import ladder as stored_ladder
from experiments.store.samples import cell_of
from partitioning.plan import Plan, cut_table

REFERENCE = Path(__file__).parents[1] / "results" / "reference"
LOCAL = "local"


@functools.cache
def rows(folder: str) -> list[Row]:
    """The rows of an experiment's summary.csv."""
    return sections.records(pd.read_csv(REFERENCE / folder / files.SUMMARY))


def each(folder: str, column: str, *transports: str, **settings: object) -> list[float]:
    """The column of the cells over one of the transports (`LOCAL`: of local models) that have these settings.

    Raises `LookupError` if there is no such cell.
    """
    found = []
    for row in rows(folder):
        cell = cell_of(row)
        transport = LOCAL if cell == local_of(cell) else cell.transport
        if transport in transports and all(getattr(cell, name) == value for name, value in settings.items()):
            found.append(float(row[column]))
    if not found:
        raise LookupError(f"{folder} has no cell over {', '.join(transports)} with {settings}")
    return found


def of(folder: str, column: str, transport: str, **settings: object) -> float:
    """The column of the only cell that `each` finds. Raises `LookupError` if there are several such cells, or none."""
    found = each(folder, column, transport, **settings)
    if len(found) > 1:
        raise LookupError(f"{folder} has {len(found)} cells over {transport} with {settings}")
    return found[0]


@functools.cache
def ladder(folder: str) -> dict[str, ladders.Ladder]:
    """Transport -> its ladder."""
    found = ladders.ladders(samples.read(REFERENCE / folder), _steps(folder))
    return {one.cell.transport: one for one in found}


def step(folder: str, piece: str, *transports: str) -> list[float]:
    """A piece of the ladder of each transport, in milliseconds."""
    return [1e3 * ladder(folder)[name].pieces[piece] for name in transports]


@functools.cache
def _steps(folder: str) -> pd.DataFrame:
    return stored_ladder.read(REFERENCE / folder)


def rung(folder: str, name: str) -> float:
    """Mean seconds of a rung, over all cells."""
    steps = _steps(folder)
    return float(steps[steps["rung"] == name]["seconds"].mean())


@functools.cache
def echoes(folder: str) -> pd.DataFrame:
    """The samples of echoes."""
    return sizes.read(REFERENCE / folder)


@functools.cache
def medians(folder: str) -> sizes.Medians:
    """The median seconds of each way and size."""
    return sizes.medians(pd.read_csv(REFERENCE / folder / files.SUMMARY))


def echo(folder: str, way: str, megabytes: float) -> float:
    """The median milliseconds of an echo."""
    return 1e3 * medians(folder)[way, int(megabytes * MB)]


def beside(way: str, bare: str) -> list[float]:
    """The seconds of echoes of a way, as a multiple of those of a library alone, sizes ascending."""
    found = ratios(echoes("sizes-bare"), way, bare)
    return [found[size].value for size in sorted(found)]


@functools.cache
def crossing(folder: str) -> dict[str, int]:
    """The first operation behind a cut -> bytes that cross it at batch 1, and "" -> the bytes of the model's inputs.

    It covers the plans of `folder` with two stages.
    """
    found: dict[str, int] = {}
    for path in (REFERENCE / folder).glob(files.PLAN.format("*")):
        plan = Plan.from_json(path.read_text(encoding="utf-8"))
        inputs, sent, *_ = cut_table(plan)
        found[""] = inputs.nbytes
        if len(plan.stages) == 2:
            found[plan.stages[1].operations[0]] = sent.nbytes
    return found
