"""Shared by the tests of the simulation: small systems with exact results in theory, and runs with known parts."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cluster.links.link import Link
from experiments.simulate.draws import Draws, Floats
from experiments.simulate.engine import Clients, simulate
from experiments.simulate.outcome import Outcome, outcome_of
from experiments.simulate.state import Trace
from experiments.simulate.system import Call, Server, System, Visit, Work
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.settings import to_record
from experiments.store import files, nodes, phases, rows, samples
from experiments.store.nodes import NodeBlock
from experiments.store.samples import Sample
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.plan import Plan, build_plan

FLOWS = ("nested", "hub", "forward")
FREE = Work(0)
"""A step that takes no time: in all draws here, column 0 is 0."""
CALL = Call(FREE, FREE, FREE, FREE)


def chain(
    draws: Draws,
    stages: int,
    flow: str = "hub",
    *,
    cores: int = 1,
    slots: int = 0,
    call: Call = CALL,
    replicas: int = 1,
) -> System:
    """Servers in a row, each on hosts of its own. Column i + 1 of `draws` has the seconds of the stages of server i."""
    last = stages - 1
    visits = tuple(
        Visit(
            server,
            call,
            Work(server + 1),
            sends=(server + 1,) if flow != "hub" and server < last else (),
            result=CALL if flow == "forward" and server == last else None,
        )
        for server in range(stages)
    )
    servers = tuple(
        Server(tuple(f"host-{server}-{copy}" for copy in range(replicas)), slots or cores) for server in range(stages)
    )
    hosts = {"client": 1} | {host: cores for server in servers for host in server.hosts}
    return System(hosts, servers, flow, visits, tuple(range(stages)) if flow == "hub" else (0,), draws)


@dataclass(frozen=True)
class Constant:
    """Every request takes the same seconds."""

    seconds: tuple[float, ...]

    def draw(self, rng: np.random.Generator, requests: int) -> Floats:
        return np.tile(np.array(self.seconds, dtype=np.float64), (requests, 1))


@dataclass(frozen=True)
class Exponential:
    """The seconds are exponentially distributed and independent, with these means."""

    means: tuple[float, ...]

    def draw(self, rng: np.random.Generator, requests: int) -> Floats:
        means = np.array(self.means, dtype=np.float64)
        return rng.exponential(1.0, (requests, len(means))) * means


def constant(*seconds: float) -> Constant:
    return Constant((0.0, *seconds))


def exponential(*means: float) -> Exponential:
    return Exponential((0.0, *means))


def linked(system: System, delay: float, bandwidth: float, nbytes: int) -> System:
    """`system` with a link from the client to every server, and messages of `nbytes`."""
    links = {
        ("client", server.hosts[0]): Link("client", server.hosts[0], False, delay, 0.0, bandwidth)
        for server in system.servers
    }
    visits = tuple(replace(visit, call=replace(visit.call, there=nbytes)) for visit in system.visits)
    return replace(system, links=links, visits=visits)


def run(system: System, clients: Clients, requests: int = 25_000, seed: int = 1) -> Outcome:
    return outcome_of(trace(system, clients, requests, seed), system.timeout)


def trace(system: System, clients: Clients, requests: int, seed: int = 1) -> Trace:
    return simulate(system, clients, requests, seed, requests // 10)


def mean_value_analysis(demands: Sequence[float], clients: int) -> tuple[float, float]:
    """(requests per second, seconds of a request) of a closed network of exponential stations with one server each.

    Source: M. Reiser and S. S. Lavenberg, "Mean-Value Analysis of Closed Multichain Queuing Networks", JACM 27,
    1980.
    """
    queues = [0.0] * len(demands)
    throughput = seconds = 0.0
    for count in range(1, clients + 1):
        residence = [demand * (1 + queue) for demand, queue in zip(demands, queues, strict=True)]
        seconds = sum(residence)
        throughput = count / seconds
        queues = [throughput * each for each in residence]
    return throughput, seconds


@dataclass(frozen=True)
class Invented:
    """A run of two servers in a row, with known seconds for every part. A factor differs from request to request."""

    computed: tuple[float, float] = (0.010, 0.030)
    work: Mapping[int, float] = field(default_factory=lambda: {-1: 0.001, 0: 0.002, 1: 0.003})
    """Process (-1: the client) -> its seconds of work for each message or answer that it handles."""
    transit: Mapping[int, float] = field(default_factory=lambda: {-1: 0.0005, 0: 0.00025, 1: 0.00075})
    """Process -> the seconds that a message or answer to it travels."""
    busy: float = 0.4
    """The share of `transit` in which the receiving node uses a core."""
    between: float = 0.0015
    flow: str = "nested"
    slowed: float = 1.0
    """The factor by which a request takes longer in a closed loop of several clients."""
    uneven: float = 1.0
    """The factor by which every fourth request of such a loop takes longer than its other requests."""

    @property
    def counts(self) -> Mapping[int, tuple[int, int]]:
        """Process -> (messages and answers that it handles, number that it receives of these) while a request waits."""
        nested = {-1: (2, 1), 0: (4, 2), 1: (2, 1)}
        return nested if self.flow == "nested" else {-1: (2, 1), 0: (2, 1), 1: (2, 1)}

    @property
    def seconds(self) -> float:
        """Seconds of a request whose factor is 1."""
        parts = (self.work[name] * all_ + self.transit[name] * came for name, (all_, came) in self.counts.items())
        return sum(self.computed) + sum(parts)

    @property
    def cell(self) -> Cell:
        return Cell("tcp", "submodel", self.flow, "frozen", servers=2, trace="on")

    def write(self, folder: Path, *, traced: bool, runs: int = 20, beside: Sequence[Cell] = (), **more: Any) -> Path:
        """A results folder, as a run writes it. `beside`: further cells; `more`: entries of the experiment's record."""
        experiment = Experiment((self.cell, *beside), runs=runs).with_locals()
        folder.mkdir(parents=True)
        record = {"experiment": to_record(experiment) | more, "processor": {"affinity": 2}}
        (folder / files.ENVIRONMENT).write_text(json.dumps({"complete": True, "failure": ""} | record))
        (folder / files.PLAN.format("submodel")).write_text(self.plan.to_json())
        with contextlib.ExitStack() as stack:
            requests = stack.enter_context(samples.Writer(folder))
            used = stack.enter_context(nodes.writer(folder))
            parts = stack.enter_context(phases.writer(folder)) if traced else None
            for cell in (self.cell, *beside):
                start = 0.0
                for run in range(runs):
                    factor = 1 + 0.1 * (run % 3)
                    if cell.concurrency > 1:
                        factor *= self.slowed * (self.uneven if run % 4 == 0 else 1.0)
                    requests.append(self._sample(cell, run, factor, start))
                    start += factor * self.seconds + self.between
                    if parts and cell == self.cell:
                        self._phases(parts, run, factor)
            mean = sum(1 + 0.1 * (run % 3) for run in range(runs)) / runs
            for server in (0, 1):
                used.append(
                    NodeBlock(self.cell, 0, f"node-{server}", "here", runs, runs * mean * self._cpu(server), 1, 0, 0)
                )
        return folder

    @property
    def plan(self) -> Plan:
        tensors = {name: TensorInfo(name, (None, 8), "float32") for name in "xyz"}
        operations = (Operation("a", "Layer", ("x",), ("y",)), Operation("b", "Layer", ("y",), ("z",)))
        return build_plan(Graph(operations, tensors, ("x",), ("z",)), (0, 1), "submodel")

    def _cpu(self, server: int) -> float:
        handled, came = self.counts[server]
        handled *= 2 if self.flow == "forward" else 1  # the acknowledgements too, for which no request waits
        return self.computed[server] + self.work[server] * handled + self.busy * self.transit[server] * came

    def _sample(self, cell: Cell, run: int, factor: float, start: float) -> Sample:
        costs: dict[str, Any] = {"compute_seconds": factor * sum(self.computed), "queue_seconds": 0.0, "start": start}
        messages, payload = (2, 32 * 4) if self.flow == "nested" else (3, 32 * 3)
        costs |= {"messages": messages, "payload_bytes": payload, "round": 0}
        return Sample(cell, run, factor * self.seconds, 0, **costs)

    def _phases(self, writer: rows.Writer, run: int, factor: float) -> None:
        for process, (handled, came) in self.counts.items():
            work = factor * self.work[process] * handled
            parts = {"decode": work / 2, "encode": work / 4, "route": work / 4}
            parts |= {"send": factor * self.transit[process] * came}
            parts |= {"compute": factor * self.computed[process]} if process >= 0 else {}
            hop = phases.CLIENT_HOP if process < 0 else f"server-{process}"
            writer.append(phases.HopPhases(self.cell, run, 0, hop, parts, 0.0, 0.0, 0))
