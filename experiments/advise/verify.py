"""Measures what an advice ranks, in one experiment: the best ways and the equal split, or every two-way cut."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from experiments.advise import measured, regret
from experiments.advise.__main__ import AdviseOptions
from experiments.advise.model import Asked
from experiments.advise.table import cut_of
from experiments.execute import check, execute
from experiments.spec import settings
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.flags import Runs
from experiments.store.profile import Profile
from partitioning.advice import Advice, Candidate
from partitioning.cost_model import CostModel, Placed

BEST = 3
"""How many of the best ways are measured."""


def run(
    given: AdviseOptions,
    profile: Profile,
    asked: Asked,
    model: CostModel,
    advice: Advice,
    out: Path,
    argv: Sequence[str],
) -> None:
    """Measure into the folder `out`, print the regret and write it. Raises what `execute` raises."""
    chosen = list(every(advice) if given.verify == "all" else advice.ranked[:BEST])
    cells = [cell_of(model, item, asked) for item in chosen]
    cells += list(equal_splits(advice, model, asked))
    experiment = experiment_of(asked, cells, given.runs)
    check(Runs(((experiment, out),), (), ()))
    execute(experiment.with_locals(), out, argv)
    ways = measured.read(profile, out)
    predicted = [model.predict(item.placed).seconds.value for item in ways]
    found = [regret.regret_of(link, ways, predicted, experiment.seed) for link in regret.links_of(ways)]
    regret.write(out, found)
    regret.show(found)


def experiment_of(asked: Asked, cells: Sequence[Cell], runs: int) -> Experiment:
    """The experiment on the hosts of the question. Raises `UsageError` for settings that no run can have."""
    named = tuple(dict.fromkeys(settings.canonical(cell) for cell in cells))
    return settings.check(replace(asked.experiment, cells=named, runs=runs, title="Advice, measured", profile=""))


def every(advice: Advice) -> Iterator[Candidate]:
    """Every placement on one host and every cut on the hosts of the best one, over the transport of the best way."""
    transport = advice.best.placed.transport
    cut = next((item.placed.hosts for item in advice.pool if len(item.placed.hosts) == 2), ())
    return (
        item
        for item in advice.pool
        if item.placed.transport == transport and (len(item.placed.hosts) == 1 or item.placed.hosts == cut)
    )


def equal_splits(advice: Advice, model: CostModel, asked: Asked) -> Iterator[Cell]:
    """The equal split on the hosts of the best cut, over the transport of the best way."""
    best = next((item for item in advice.pool if len(item.placed.hosts) > 1), None)
    if best is not None and len(model.graph.operations) >= len(best.placed.hosts):
        placed = replace(best.placed, transport=advice.best.placed.transport)
        yield _cell(placed, asked, "equal")


def cell_of(model: CostModel, item: Candidate, asked: Asked) -> Cell:
    """The cell of a run that measures a candidate."""
    crosses = item.cost.trips.delays > 0
    return _cell(item.placed, asked, cut_of(model, item) or Cell.cut, linked=crosses)


def _cell(placed: Placed, asked: Asked, cut: str, *, linked: bool = True) -> Cell:
    own, servers = asked.experiment.cells[0], len(placed.hosts)
    return Cell(
        transport=placed.transport,
        mode="whole" if servers == 1 else "submodel",
        engine=own.engine,
        batch=own.batch,
        servers=servers,
        cut=cut,
        on="+".join(placed.hosts) if asked.hosts else "",
        link=asked.link if linked else "",
    )
