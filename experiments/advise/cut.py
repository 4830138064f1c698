"""`--cut advised`: the cut of a cell, chosen from a profile before the cell is prepared.

The cell has as many groups as servers, on the servers' hosts in their order, over its own transport and links. Of the
possible cuts, the one with the fewest predicted seconds is chosen. `splitbench advise` says whether to cut at all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cluster import hosts
from experiments.advise import measured
from experiments.advise import model as models
from experiments.advise.model import Asked
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.paths import portable
from experiments.store import profile as store
from experiments.store.profile import HINT, Profile
from partitioning.advice import Question, advise
from partitioning.cost_model import CostModel
from partitioning.part_costs import Estimate, MessageCost
from partitioning.strategy_table import ADVISED
from transports.errors import UsageError

NOTHING = MessageCost(Estimate(0.0), Estimate(0.0))
"""The cost of a message over `none`."""


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with the names of operations in place of each advised cut.

    Raises `UsageError` without a profile or with one that does not fit, and `PartitionError` if there is no such cut.
    """
    if not experiment.profile:
        raise UsageError(f"--cut {ADVISED}: give a profile (--profile FOLDER); {HINT}")
    profile = store.read(Path(experiment.profile))
    if experiment.versions == hosts.VERSIONS[0]:
        models.check_machine(profile)
    cells = (_resolved(profile, experiment, cell) if cell.cut == ADVISED else cell for cell in experiment.cells)
    return replace(experiment, cells=tuple(dict.fromkeys(cells)))


def _resolved(profile: Profile, experiment: Experiment, cell: Cell) -> Cell:
    settings = {"model": portable(experiment.model), "weights": experiment.weights, "threads": experiment.threads}
    known = {name: getattr(profile.experiment, name) for name in settings}
    settings |= {"engine": cell.engine, "batch": cell.batch}
    known |= {"engine": profile.engine, "batch": profile.batch}
    for name, value in settings.items():
        if value != known[name]:
            raise UsageError(f"--cut {ADVISED}: the profile has {name} {known[name]}, and the cell {value}; {HINT}")
    for name in ("flow", "wire"):
        value, known_one = getattr(cell, name), getattr(Cell, name)
        if value != known_one:
            raise UsageError(f"--cut {ADVISED}: the profile is of {name} {known_one}, and the cell has {value}")
    model = _model(profile, experiment, cell)
    order = measured.hosts_of(experiment, cell)
    question = Question(servers=cell.servers, least=cell.servers, top=1, orders=(order,))
    best = advise(model, question).best.placed
    return replace(cell, cut="+".join(model.graph.operations[at].name for at in best.cuts))


def _model(profile: Profile, experiment: Experiment, cell: Cell) -> CostModel:
    asked = Asked(replace(profile.experiment, machines=experiment.machines), cell.link)
    if cell.transport == "none":
        return replace(models.model_of(profile, asked, (), cell.servers), transports={"none": NOTHING})
    return models.model_of(profile, asked, (cell.transport,), cell.servers)
