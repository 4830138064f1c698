"""Reads from a results folder the cell to simulate: its requests, its nodes, its plan, and its machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import pandas as pd

from cluster import runtimes
from cluster.links.link import Link
from cluster.partition import Partition
from experiments.simulate.walk import Steps, steps_of
from experiments.spec import machines
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.settings import from_record
from experiments.store import environment, files, nodes, phases, samples
from experiments.store.statistics import groups_of
from partitioning.engine_table import is_remote
from partitioning.errors import suggest
from partitioning.placement import PLACEMENTS
from partitioning.plan import Plan, PlanError
from transports.errors import UsageError

MEASURE = (
    "splitbench run --trace --concurrency 1,2,4 --mode submodel --engine frozen --servers 3 --transport tcp "
    "--out FOLDER"
)
"""A command that measures what a simulation needs."""
NAMED = 4
"""Most cells that an error names."""


@dataclass(frozen=True, eq=False)
class Run:
    """One cell of a run: one request at a time, over nodes in processes of their own."""

    folder: Path
    cell: Cell
    experiment: Experiment
    requests: pd.DataFrame
    """Its rows of samples.csv."""
    used: pd.DataFrame
    """Its rows of nodes.csv, by node (`nodes.by_node`); no rows if the folder lacks the file."""
    phases: pd.DataFrame
    """Its rows of phases.csv; none if it was not traced."""
    steps: Steps
    cores: int
    """Cores of the machine that the client and, if there is one machine, all nodes share."""
    closed_loops: Mapping[int, pd.DataFrame] = field(default_factory=dict)
    """Number of clients (two or more, rising) -> the requests of the same cell in a closed loop of so many clients."""

    @property
    def here(self) -> str:
        """The name of the client's machine."""
        return machines.here(self.experiment)

    @property
    def hosts(self) -> Mapping[int, str]:
        """Server -> the name of its host; none if the run named no hosts."""
        return machines.held(self.experiment)

    @property
    def links(self) -> Mapping[tuple[str, str], Link]:
        """The emulated links, by hosts."""
        return machines.links(self.experiment, self.cell)

    def without(self, clients: int) -> Run:
        """The same run without its closed loop of `clients` clients."""
        others = {count: each for count, each in self.closed_loops.items() if count != clients}
        return replace(self, closed_loops=others)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The servers that the cell uses."""
        return tuple(sorted({step.server for step in self.steps.all}))


@dataclass(frozen=True, eq=False)
class Results:
    """A results folder with the samples of a run."""

    folder: Path
    experiment: Experiment
    requests: Mapping[Cell, pd.DataFrame]
    used: pd.DataFrame
    phases: pd.DataFrame
    cores: int

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Raises `UsageError` for a folder without the samples of a run."""
        record = environment.read(folder)
        if record["experiment"].get("kind"):
            raise UsageError(f"{folder} holds a study, not a run of cells; measure one, for example: {MEASURE}")
        return cls(
            *(folder, from_record(record["experiment"]), groups_of(samples.read(folder))),
            used=nodes.read(folder),
            phases=phases.read(folder),
            cores=int(record["processor"]["affinity"]),
        )

    @property
    def fitting(self) -> list[Cell]:
        """The cells to which a simulation can be fitted."""
        return [cell for cell in self.requests if not obstacle(cell)]

    def run(self, cell: Cell) -> Run:
        """Raises `UsageError` if the folder lacks what `cell` needs."""
        return Run(
            *(self.folder, cell, self.experiment, self.requests[cell]),
            used=nodes.by_node(self.used[self.used["cell"] == cell.name]),
            phases=self.phases[self.phases["cell"] == cell.name],
            steps=self._steps(cell),
            cores=self.cores,
            closed_loops={each.concurrency: self.requests[each] for each in self.loaded(cell) if not each.load},
        )

    def loaded(self, cell: Cell) -> list[Cell]:
        """The same cell under loads: closed loops of several clients, by their number, and open loops."""
        found = [each for each in self.requests if (each.load or each.concurrency > 1) and _alone(each, cell) == cell]
        return sorted(found, key=lambda each: (each.load, each.concurrency))

    def chosen(self, name: str) -> Cell:
        """The cell `name`, or with an empty name the only one that can be simulated. Raises `UsageError`."""
        known, valid = {cell.name: cell for cell in self.requests}, [cell.name for cell in self.fitting]
        listed = f"valid: {', '.join(valid[:NAMED])}{f', and {len(valid) - NAMED} more' if len(valid) > NAMED else ''}"
        if not valid:
            why = f"no cell of {self.folder} is one request at a time between nodes"
            raise UsageError(f"{why}, which a simulation is fitted to; measure one, for example: {MEASURE}")
        if name and name not in known:
            raise UsageError(f"--cell {name!r}: not in {self.folder}{suggest(name, known)}; {listed}")
        if name and (why := obstacle(known[name])):
            raise UsageError(f"--cell {name}: no simulation can be fitted to it, since {why}; {listed}")
        if not name and len(valid) > 1:
            raise UsageError(f"{self.folder} has {len(valid)} cells to simulate; choose one with --cell; {listed}")
        return known[name or valid[0]]

    @cached_property
    def _plans(self) -> Sequence[Plan]:
        found = []
        for path in sorted(self.folder.glob(files.PLAN.format("*"))):
            try:
                found.append(Plan.from_json(path.read_text(encoding="utf-8")))
            except (PlanError, OSError, UnicodeDecodeError) as error:
                raise UsageError(f"cannot read {path}: {error}") from error
        return found

    def _steps(self, cell: Cell) -> Steps:
        """The steps of the plan whose messages equal the measured ones.

        Plan files are named after settings and digests of settings. Only the measured messages identify the cell's plan
        for certain.
        """
        measured = self.requests[cell][["messages", "payload_bytes"]].median()
        walked = [self._walked(plan, cell) for plan in self._plans if plan.mode == cell.mode]
        found = [steps for steps in walked if steps is not None and steps.messages == measured["messages"]]
        exact = [steps for steps in found if steps.payload == measured["payload_bytes"]]
        if (not exact and len(found) > 1) or not found:
            raise UsageError(
                f"{self.folder}: no {files.PLAN.format(cell.mode)} with the {measured['messages']:g} messages of cell "
                f"{cell.name}; give a folder as a run has written it"
            )
        return (exact or found)[0].scaled(measured["payload_bytes"])

    def _walked(self, plan: Plan, cell: Cell) -> Steps | None:
        """None if the cell cannot have this plan."""
        if len(plan.stages) < cell.servers:
            return None
        chosen, placed = machines.servers(self.experiment, cell), PLACEMENTS[cell.placement](plan, cell.servers)
        partition = Partition(cell.mode, plan, {stage: chosen[server] for stage, server in placed.items()}, ())
        local = cell.local_calls == "on"
        return steps_of(partition, cell.flow, local_calls=local, send=cell.send, batch=cell.batch)


def check_machines(run: Run, *, dealt: bool, linked: bool) -> None:
    """Raise `UsageError` for hosts of the run that cannot be simulated, and for a link where there is one host."""
    limited = [host.name for host in run.experiment.machines if host.cpu or host.cores or host.slowdown > 1]
    if limited:
        raise UsageError(
            f"{run.folder}: host {limited[0]} had limits of its cores or a slowdown, and the seconds hold for these; "
            f"measure the cell without, for example: {MEASURE}"
        )
    if linked and not dealt and set(run.hosts.values()) <= {run.here}:
        raise UsageError("--link: client and servers were on one host; give them others with --hosts each or N")


def _alone(loaded: Cell, cell: Cell) -> Cell:
    """`loaded` with one request at a time, and traced like `cell`."""
    return replace(loaded, load="", concurrency=1, trace=cell.trace)


def obstacle(cell: Cell) -> str:
    """Why no simulation can be fitted to `cell`; empty if one can."""
    if cell.transport == "none":
        return "it has no processes"
    if runtimes.is_runtime(cell.transport):
        return "a runtime gives no figures from inside a request"
    if is_remote(cell.engine):
        return "model servers execute its stages"
    if cell.load or cell.concurrency > 1:
        return "its requests waited for each other"
    return ""
