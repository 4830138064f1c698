"""From a profile (`splitbench profile`) to the seconds of each step of a request over a cut that was never run.

All seconds are constant: the same ones that `splitbench advise` adds up. Each end does half of a message's work: each
of the four steps of a call takes a quarter of the seconds of an empty message and its answer, and each end half of the
seconds of the bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from cluster.partition import Partition
from experiments.simulate.fit import CALL, Fit
from experiments.simulate.measured import Run
from experiments.simulate.walk import steps_of
from experiments.spec.experiment import Cell
from experiments.store.profile import Profile
from partitioning.options import hint
from partitioning.part_costs import MessageCost
from partitioning.placement import contiguous
from partitioning.plan import Plan
from partitioning.strategies import make_plan
from partitioning.strategy_table import CUTS
from transports.errors import UsageError

LISTED = 8
"""Most operations that an error names."""


@dataclass(frozen=True)
class Asked:
    """The settings of a simulation that a profile leaves open."""

    transport: str
    cut: str
    """The operations that begin a new group, with commas; empty: the whole model on one server."""
    flow: str


def run_of(profile: Profile, asked: Asked) -> Run:
    """The run to simulate, which was never measured. Raises `UsageError` for settings that the profile does not
    cover."""
    if asked.transport not in profile.transports:
        raise UsageError(
            f"--transport {asked.transport!r}: not in the profile{hint(asked.transport, profile.transports)}"
        )
    if asked.cut in CUTS:
        raise UsageError(f"--cut {asked.cut}: name the operations that begin a new server; {_listed(profile)}")
    plan = make_plan(profile.graph, "submodel", asked.cut) if asked.cut else make_plan(profile.graph, "whole")
    _check_positions(profile, plan)
    servers = len(plan.stages)
    cell = Cell(
        asked.transport, plan.mode, asked.flow, profile.engine, batch=profile.batch, servers=servers, cut=asked.cut
    )
    experiment = replace(profile.experiment, cells=(cell,))
    partition = Partition(plan.mode, plan, contiguous(plan, servers), ())
    steps = steps_of(partition, asked.flow, local_calls=True, send="bundle", batch=profile.batch)
    none = pd.DataFrame()
    cores = int(profile.record["processor"]["affinity"])
    return Run(profile.folder, cell, experiment, none, none, none, steps, cores)


def fit_of(profile: Profile, run: Run) -> Fit:
    """The seconds of the steps of `run`, in one row."""
    cost = profile.message_cost(run.cell.transport)
    position, at = 0, dict[str, tuple[int, int]]()
    for step in sorted((step for step in run.steps.all if step.stages), key=lambda step: step.server):
        for stage in step.stages:
            at[stage.name] = (position, position + len(stage.operations))
            position += len(stage.operations)
    values: list[float] = []
    for step in run.steps.all:
        host = run.hosts.get(step.server, profile.names[0])
        runs = profile.runs_of(host if host in profile.names else profile.names[0])
        values.append(sum(runs.seconds(*at[stage.name]).value for stage in step.stages))
        values += _call(cost, step.there, step.back)
    for step in run.steps.all:
        if step.result is not None:
            values += _call(cost, step.result, 0)
    busy = 1.0 if run.experiment.threads == 1 else float(run.experiment.threads or run.cores)
    cores = [busy if part == 0 else 1.0 for part in _parts(len(run.steps.all), len(values))]
    basis = f"From the profile {profile.folder.name}: constant seconds of stages and messages."
    return Fit(run.steps, np.array([[*values, 0.0]]), np.array([*cores, 1.0]), basis)


def _call(cost: MessageCost, there: int, back: int) -> list[float]:
    """The seconds of `CALL`: send, receive, reply, accept."""
    quarter, byte = cost.call.value / len(CALL), cost.byte.value / 2
    return [quarter + byte * nbytes for nbytes in (there, there, back, back)]


def _parts(steps: int, columns: int) -> Iterator[int]:
    """For each column its place among `fit.PARTS`, or 1 for the columns of results."""
    width = 1 + len(CALL)
    return (column % width if column < steps * width else 1 for column in range(columns))


def _check_positions(profile: Profile, plan: Plan) -> None:
    """Raise `UsageError` for a cut at a position that the profile has not measured."""
    for stage in plan.stages[1:]:
        if (name := stage.operations[0]) not in _positions(profile):
            raise UsageError(
                f"--cut {name}: the profile has no cut there; {_listed(profile)}; or measure it: splitbench profile "
                f"--mode submodel --cut {name} ..."
            )


def _positions(profile: Profile) -> list[str]:
    """The operations before which the profile has measured a cut."""
    return [profile.graph.operations[at].name for at in profile.runs_of(profile.names[0]).positions]


def _listed(profile: Profile) -> str:
    known = _positions(profile)
    return f"valid: {', '.join(known[:LISTED])}" + (f", and {len(known) - LISTED} more" if len(known) > LISTED else "")
