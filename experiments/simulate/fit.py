"""From a measured cell to the seconds of each step of its requests.

A request has, for each message, the steps `send`, `receive`, `reply` and `accept`, and the stages that it starts
(`compute`). Each measured request makes a row, so that the steps of a request stay correlated.

With `--trace` a run has the phases of each request at each hop, so the seconds in the stages are known for each server.
The seconds that a process spent on messages are divided equally among the messages that it sent or received. The
seconds in which nobody worked on the request are divided among the messages that the process received.

Without `--trace`, a run has the seconds in all stages and outside of them, and the CPU seconds of each node. Then the
seconds in the stages are divided among the servers in proportion to the CPU seconds of their nodes, less the CPU
seconds for messages. The seconds outside of stages, less the seconds on links, are divided equally among all messages.

Within a server, the seconds in its stages are divided by the number of operations. Links are simulated, so the measured
seconds on links are removed. With phases, a core is busy while a process works on a message. The cores that stages and
messages on their way (without phases: everything outside of stages) keep busy are chosen so that the CPU seconds of all
nodes together equal the measured ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import pandas as pd

from experiments.simulate import way
from experiments.simulate.draws import Floats
from experiments.simulate.measured import MEASURE, Run
from experiments.simulate.resources import IDEAL, Contention
from experiments.simulate.walk import Steps
from experiments.simulate.way import CLIENT
from experiments.store.phases import CLIENT_HOP, PHASES
from transports.errors import UsageError

CALL = ("send", "receive", "reply", "accept")
PARTS = ("compute", *CALL)
"""The columns of a step, in this order."""
IDLE = ("queue", "wake", "send")
"""Phases in which no core works on the request, if no other request is in flight."""
LEAST_CORES = 0.25
"""The fewest cores that are busy while a message is handled: a lower bound, since this number comes from small
differences of the nodes' CPU seconds."""


@dataclass(frozen=True, eq=False)
class Fit:
    """The seconds of every step, and the cores that it keeps busy."""

    steps: Steps
    rows: Floats
    """A row for each measured request; columns: `PARTS` of each step, `CALL` of each result, and what the client does
    between two requests."""
    cores: Floats
    """Cores that are busy during the seconds of each column, on average."""
    basis: str
    """A sentence that says from which measurements the seconds come."""
    contention: Contention = IDEAL

    def column(self, step: int, part: str) -> int:
        return step * len(PARTS) + PARTS.index(part)

    def result(self, step: int, part: str) -> int:
        """The column of the message with outputs of the model that follows from `step`."""
        before = sum(each.result is not None for each in self.steps.all[:step])
        return len(self.steps.all) * len(PARTS) + before * len(CALL) + CALL.index(part)

    def scaled(self, factor: float) -> Fit:
        """The same fit with the seconds of messages multiplied by `factor`."""
        stages = [self.column(step, "compute") for step in range(len(self.steps.all))]
        factors = np.full(self.rows.shape[1], factor)
        factors[[*stages, self.between]] = 1.0
        return replace(self, rows=self.rows * factors)

    @property
    def between(self) -> int:
        return int(self.rows.shape[1]) - 1


@dataclass(frozen=True)
class _Seconds:
    """Seconds of each request, by server or process."""

    computed: Mapping[int, Floats]
    """In the stages of a server."""
    each: Mapping[int, Floats]
    """For one message that a process sends or receives."""
    transit: Mapping[int, Floats]
    """Until a message that a process receives has arrived, while nobody works on the request."""


def fit(run: Run) -> Fit:
    """Raises `UsageError` if the run lacks a figure that is needed."""
    if run.used.empty:
        raise UsageError(
            f"{run.folder}: no CPU seconds of its nodes (nodes.csv); measure again, for example: {MEASURE}"
        )
    if run.requests[["compute_seconds", "start"]].isna().to_numpy().any():
        raise UsageError(
            f"{run.folder}: an older version measured it, without what is needed; measure again: {MEASURE}"
        )
    traced = not run.phases.empty
    seconds = _from_phases(run) if traced else _from_sums(run)
    busy = _busy(run, seconds, traced)
    columns = [*_steps(run, seconds, busy), *_results(run, seconds, busy)]
    gap = between(run.requests)
    rows = np.column_stack([*(values for values, _ in columns), np.full(len(columns[0][0]), gap)])
    how = "traced requests" if traced else "requests without --trace (estimates of the parts of each server)"
    basis = f"Fitted to {len(run.requests)} {how} of cell {run.cell.name}."
    return Fit(run.steps, rows, np.array([*(cores for _, cores in columns), 1.0]), basis)


def between(requests: pd.DataFrame) -> float:
    """Median seconds between the end of a request and the start of the next one of the same block."""
    ordered = requests.sort_values("start")
    gaps = ordered["start"].shift(-1) - ordered["start"] - ordered["seconds"]
    found = gaps[(ordered["block"].shift(-1) == ordered["block"]) & (gaps > 0)]
    return float(found.median()) if len(found) else 0.0


def _from_phases(run: Run) -> _Seconds:
    wide = run.phases.pivot(index="run", columns="hop", values=list(PHASES)).dropna()
    hops = {CLIENT: CLIENT_HOP, **{server: f"server-{server}" for server in run.chosen}}
    missing = [hop for hop in hops.values() if ("compute", hop) not in wide.columns]
    if missing or wide.empty:
        raise UsageError(
            f"{run.folder}: no phases of {missing[0] if missing else 'whole requests'}; measure again: {MEASURE}"
        )

    def total(process: int, phases: Sequence[str]) -> Floats:
        return np.asarray(wide[[(phase, hops[process]) for phase in phases]].sum(axis=1), dtype=np.float64)

    work = [phase for phase in PHASES if phase not in (*IDLE, "compute")]
    counts, arrivals, links = way.handled(run), way.arrivals(run), way.on_links(run)
    return _Seconds(
        {server: total(server, ["compute"]) for server in run.chosen},
        {process: total(process, work) / counts[process] for process in hops},
        {process: np.maximum(0.0, total(process, IDLE) - links[process]) / arrivals[process] for process in hops},
    )


def _from_sums(run: Run) -> _Seconds:
    computed = run.requests["compute_seconds"].to_numpy(dtype=np.float64)
    outside = run.requests["seconds"].to_numpy(dtype=np.float64) - computed - sum(way.on_links(run).values())
    counts = way.handled(run)
    each = np.maximum(0.0, outside) / sum(counts.values())
    cpu, none = _cpu(run), np.zeros_like(each)
    work = {server: max(1e-3 * sum(cpu.values()), cpu[server] - each.mean() * counts[server]) for server in run.chosen}
    total = sum(work.values())
    return _Seconds(
        {server: computed * (work[server] / total) for server in run.chosen},
        dict.fromkeys(counts, each),
        dict.fromkeys(counts, none),
    )


class _Busy(NamedTuple):
    """Cores that are busy, on average."""

    stage: float
    message: float
    transit: float


def _busy(run: Run, seconds: _Seconds, traced: bool) -> _Busy:
    counts, arrivals = way.worked(run), way.arrivals(run)
    computed = sum(float(values.mean()) for values in seconds.computed.values())
    messages = sum(float(seconds.each[server].mean()) * counts[server] for server in run.chosen)
    transit = sum(float(seconds.transit[server].mean()) * arrivals[server] for server in run.chosen)
    cpu = sum(_cpu(run).values())
    message = 1.0 if traced else _share(cpu - computed, messages, LEAST_CORES)
    moving = _share(cpu - computed - message * messages, transit, 0.0)
    left = cpu - message * messages - moving * transit
    return _Busy(float(np.clip(left / computed, 1.0, run.cores)) if computed else 1.0, message, moving)


def _share(part: float, whole: float, least: float) -> float:
    return float(np.clip(part / whole, least, 1.0)) if whole else least


def _cpu(run: Run) -> Mapping[int, float]:
    """Server -> CPU seconds of its nodes for a request. Node N holds the portion N modulo the number of portions."""
    numbers = run.used["node"].str.removeprefix("node-").astype(int)
    portions = (int(numbers.max()) + 1) // run.experiment.replicas
    found = run.used["cpu_seconds"].groupby(numbers % portions).sum()
    return {server: float(found.get(server, 0.0)) for server in run.chosen}


Column = tuple[Floats, float]
"""The seconds of each request, and the cores that are busy meanwhile."""


def _steps(run: Run, seconds: _Seconds, busy: _Busy) -> list[Column]:
    sender, columns = way.callers(run.steps), list[Column]()
    held = dict.fromkeys(run.chosen, 0)
    counts = [sum(len(stage.operations) for stage in step.stages) for step in run.steps.all]
    for step, count in zip(run.steps.all, counts, strict=True):
        held[step.server] += count
    for number, (step, count) in enumerate(zip(run.steps.all, counts, strict=True)):
        part = count / held[step.server] if count else 0.0
        columns.append((seconds.computed[step.server] * part, busy.stage))
        columns += _call(seconds, sender.get(number, CLIENT), step.server, busy)
    return columns


def _results(run: Run, seconds: _Seconds, busy: _Busy) -> list[Column]:
    servers = [step.server for step in run.steps.all if step.result is not None]
    return [column for server in servers for column in _call(seconds, server, CLIENT, busy)]


def _call(seconds: _Seconds, source: int, target: int, busy: _Busy) -> list[Column]:
    """The columns `CALL` of a message from one process to another."""

    def work(process: int, *, arrives: bool) -> Column:
        each, transit = seconds.each[process], seconds.transit[process] * arrives
        whole = each + transit
        mean = float(whole.mean())
        cores = busy.message * float(each.mean()) + busy.transit * float(transit.mean())
        return whole, min(1.0, cores / mean) if mean else busy.message

    return [
        work(source, arrives=False),
        work(target, arrives=True),
        work(target, arrives=False),
        work(source, arrives=True),
    ]
