"""From a fitted cell to a system: its hosts, where each replica runs, and the links between the hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from cluster.links.link import Link
from experiments.simulate.draws import Measured
from experiments.simulate.fit import CALL, Fit
from experiments.simulate.measured import Run
from experiments.simulate.system import CLIENT, Call, Server, System, Visit, Work
from experiments.spec.load import IN_FLIGHT

AS_RUN = "run"
"""The hosts of the run."""
MACHINE = "machine"
"""The machine of a run, whose cores all of its processes share."""
EACH = "each"
"""A host for every server and replica, and one for the client."""


@dataclass(frozen=True)
class Layout:
    """Where everything runs."""

    replicas: int = 1
    hosts: str = AS_RUN
    """`AS_RUN`, `EACH`, or a number of hosts, to which servers and replicas are dealt in turn."""
    cores: int = 0
    """Cores of each host; 0: as many as the machine of the run has."""
    link: Link | None = None
    """The link between every two hosts; None: the links of the run."""
    timeout: float = 0.0
    """Seconds; 0: the time limit of the run."""


@dataclass(frozen=True)
class _Places:
    cores: Mapping[str, int]
    shares: Mapping[str, tuple[str, ...]]
    client: str
    of: tuple[tuple[str, ...], ...]
    """The host of each replica of each server."""
    links: Mapping[tuple[str, str], Link]


def system_of(run: Run, fitted: Fit, layout: Layout) -> System:
    """The system in which the requests of `run` would be answered."""
    places = _as_run(run, layout) if layout.hosts == AS_RUN else _dealt(run, layout)
    pinned = run.experiment.pin == "on"
    return System(
        hosts=places.cores,
        shares=places.shares,
        servers=tuple(Server(hosts, 1 if pinned else _cores(run, layout)) for hosts in places.of),
        flow=run.cell.flow,
        visits=tuple(_visit(fitted, number, run.chosen) for number in range(len(fitted.steps.all))),
        roots=fitted.steps.roots,
        draws=Measured(fitted.rows),
        client=places.client,
        links=places.links,
        between=_work(fitted, fitted.between),
        timeout=layout.timeout or run.experiment.timeout,
        contention=fitted.contention,
        threads=IN_FLIGHT,
    )


def _cores(run: Run, layout: Layout) -> int:
    return layout.cores or run.cores


def _as_run(run: Run, layout: Layout) -> _Places:
    """The hosts of the run. Those of one machine share its cores."""
    names = [run.hosts.get(server, run.here) for server in run.chosen]
    every, cores = list(dict.fromkeys([run.here, *names])), _cores(run, layout)
    links = _between(layout.link, every) if layout.link else run.links
    of = tuple((name,) * layout.replicas for name in names)
    if run.experiment.several_machines:
        return _Places(dict.fromkeys(every, cores), {}, run.here, of, links)
    if run.experiment.pin == "on":
        return _pinned(run, layout, links)
    return _Places({MACHINE: cores}, dict.fromkeys(every, (MACHINE,)), run.here, of, links)


def _pinned(run: Run, layout: Layout, links: Mapping[tuple[str, str], Link]) -> _Places:
    """The hosts of a run with `--pin`: each node is a host of its own, which uses one core; nodes take cores in turn.
    The client uses all cores."""
    all_cores = tuple(f"core-{number}" for number in range(_cores(run, layout)))
    portions = max(run.chosen) + 1
    hosts, shares = {CLIENT: run.here}, {CLIENT: all_cores}
    of = []
    for server in run.chosen:
        nodes = [copy * portions + server for copy in range(layout.replicas)]
        of.append(tuple(f"node-{node}" for node in nodes))
        shares |= {f"node-{node}": (all_cores[node % len(all_cores)],) for node in nodes}
        hosts |= dict.fromkeys(of[-1], run.hosts.get(server, run.here))
    between = {
        (source, target): links[hosts[source], hosts[target]]
        for source in hosts
        for target in hosts
        if (hosts[source], hosts[target]) in links
    }
    return _Places(dict.fromkeys(all_cores, 1), shares, CLIENT, tuple(of), between)


def _dealt(run: Run, layout: Layout) -> _Places:
    processes = len(run.chosen) * layout.replicas
    count = processes if layout.hosts == EACH else min(int(layout.hosts), processes)
    names = [f"host-{number}" for number in range(count)]
    # Replica r of all servers is dealt before replica r + 1 of any server, so that few hosts hold a whole pipeline.
    of = [
        tuple(names[(copy * len(run.chosen) + place) % count] for copy in range(layout.replicas))
        for place in range(len(run.chosen))
    ]
    every = [CLIENT, *names]
    links = _between(layout.link, every) if layout.link else {}
    return _Places(dict.fromkeys(every, _cores(run, layout)), {}, CLIENT, tuple(of), links)


def _between(link: Link, names: list[str]) -> Mapping[tuple[str, str], Link]:
    pairs = ((source, target) for source in names for target in names if source != target)
    return {(source, target): replace(link, source=source, target=target, both=False) for source, target in pairs}


def _visit(fitted: Fit, number: int, chosen: tuple[int, ...]) -> Visit:
    step = fitted.steps.all[number]
    call = _call(fitted, [fitted.column(number, part) for part in CALL])
    result = None
    if step.result is not None:
        result = replace(_call(fitted, [fitted.result(number, part) for part in CALL]), there=step.result)
    return Visit(
        server=chosen.index(step.server),
        call=replace(call, there=step.there, back=step.back),
        compute=_work(fitted, fitted.column(number, "compute")) if step.stages else None,
        sends=step.sends,
        after=step.after,
        result=result,
    )


def _call(fitted: Fit, columns: list[int]) -> Call:
    send, receive, reply, accept = (_work(fitted, column) for column in columns)
    return Call(send, receive, reply, accept)


def _work(fitted: Fit, column: int) -> Work:
    return Work(column, float(fitted.cores[column]))
