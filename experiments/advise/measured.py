"""The cells of a results folder as placed cuts of a cost model, with the samples of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from experiments.advise import model as models
from experiments.advise.model import Asked
from experiments.spec import machines as spec
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.settings import from_record
from experiments.store import environment, samples
from experiments.store.profile import Profile
from experiments.store.statistics import groups_of
from partitioning.cost_model import CostModel, Placed
from partitioning.errors import PartitionError
from partitioning.strategies import make_plan
from transports.errors import UsageError


@dataclass(frozen=True)
class Measured:
    """A cell of a run."""

    cell: Cell
    placed: Placed
    model: CostModel
    """The cost model with the links of the cell."""
    samples: pd.DataFrame

    @property
    def seconds(self) -> float:
        """The mean of its requests."""
        return float(self.samples["seconds"].mean())

    @property
    def predicted(self) -> float:
        return self.model.predict(self.placed).seconds.value


def read(profile: Profile, folder: Path) -> list[Measured]:
    """The cells of `folder` that the model can predict: one request at a time over a transport of the profile, nested.

    Raises `UsageError` for a run of another model, engine, batch or hosts, and without any such cell.
    """
    experiment = from_record(environment.read(folder)["experiment"])
    for name in ("model", "weights", "threads"):
        was, own = getattr(profile.experiment, name), getattr(experiment, name)
        if was != own:
            raise UsageError(f"{folder}: its {name} is {own}, that of the profile {was}; profile the same")
    measured = samples.read(folder)
    found = list(_cells(profile, experiment, groups_of(measured), think_of(measured)))
    if not found:
        raise UsageError(
            f"{folder}: no cell over {', '.join(profile.transports)}, engine {profile.engine}, batch {profile.batch}, "
            "flow nested, one request at a time; give a run with such cells"
        )
    return found


def think_of(measured: pd.DataFrame) -> float:
    """Seconds between an answer and the next request of a block: the median."""
    ordered = measured.sort_values("start")
    ends = ordered["start"] + ordered["seconds"]
    pauses = (ordered["start"] - ends.shift())[ordered["block"] == ordered["block"].shift()]
    return max(0.0, float(pauses.median())) if pauses.notna().any() else 0.0


def _cells(
    profile: Profile, experiment: Experiment, groups: Mapping[Cell, pd.DataFrame], think: float
) -> Iterator[Measured]:
    model_of: dict[str, CostModel] = {}
    most = max(cell.servers for cell in groups)
    for cell, group in groups.items():
        if not _predictable(profile, cell):
            continue
        if cell.link not in model_of:
            asked = Asked(replace(profile.experiment, machines=experiment.machines), cell.link, think=think)
            model_of[cell.link] = models.model_of(profile, asked, servers=most)
        cuts = cuts_of(profile, cell)
        if cuts is not None:
            yield Measured(cell, Placed(hosts_of(experiment, cell), cuts, cell.transport), model_of[cell.link], group)


def _predictable(profile: Profile, cell: Cell) -> bool:
    same = (cell.engine, cell.batch, cell.flow) == (profile.engine, profile.batch, "nested")
    alone = cell.concurrency == 1 and not cell.load and cell.wire == Cell.wire
    cut = cell.mode == "whole" or (cell.mode == "submodel" and cell.placement == "contiguous")
    return same and alone and cut and cell.transport in profile.transports


def hosts_of(experiment: Experiment, cell: Cell) -> tuple[str, ...]:
    """The hosts of the groups of a cell, in order."""
    held = spec.held(experiment)
    return tuple(held.get(server, f"server-{server}") for server in spec.servers(experiment, cell))


def cuts_of(profile: Profile, cell: Cell) -> tuple[int, ...] | None:
    """The positions of a cell's cuts; None if the profile lacks one of them."""
    if cell.mode == "whole":
        return ()
    try:
        stages = make_plan(profile.graph, cell.mode, cell.cut, cell.servers).stages
    except PartitionError:  # a cut that is computed from costs
        return None
    order = {operation.name: at for at, operation in enumerate(profile.graph.operations)}
    cuts = tuple(order[stage.operations[0]] for stage in stages[1:])
    known = set(profile.runs_of(profile.names[0]).positions)
    return cuts if len(cuts) == cell.servers - 1 and known.issuperset(cuts) else None
