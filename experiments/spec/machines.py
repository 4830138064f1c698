"""Which host holds which server of a cell, which links a cell has, and what of this cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import transports
from cluster import resource_limits, runtimes
from cluster.hosts import CLIENT, Host, members, servers_of, spread
from cluster.launchers import remote
from cluster.links.link import Link
from cluster.pinning import cores
from experiments.spec.experiment import SETTINGS, Cell, Experiment
from partitioning.engine_table import is_remote
from partitioning.options import JOINT
from transports.errors import UsageError
from transports.limits import TLS_FILES

Direction = tuple[str, str]
"""(source, target): names of hosts."""


def hosts_of(experiment: Experiment) -> tuple[Host, ...]:
    """The hosts of an experiment. With links and no hosts, each server is a host `server-0`, `server-1`, ...; else
    none."""
    if experiment.machines or not any(cell.link for cell in experiment.cells):
        return experiment.machines
    return tuple(Host(name=f"server-{server}", servers=(server,)) for server in range(_most(experiment)))


def held(experiment: Experiment) -> Mapping[int, str]:
    """Server -> the name of its host; none without hosts. Raises `UsageError` for a server on no host."""
    hosts = hosts_of(experiment)
    return servers_of(hosts, max(_most(experiment), len(hosts))) if hosts else {}


def servers(experiment: Experiment, cell: Cell) -> Sequence[int]:
    """The servers of a cell, of which it has `cell.servers`. Raises `UsageError` if its hosts hold too few."""
    if not cell.on:
        return range(cell.servers)
    return spread(cell.on, hosts_of(experiment), held(experiment), cell.servers)


def here(experiment: Experiment) -> str:
    """The name that the machine of the run has in links."""
    return next((host.name for host in experiment.machines if host.client), CLIENT)


def links(experiment: Experiment, cell: Cell) -> dict[Direction, Link]:
    """The emulated links of a cell, by hosts. Raises `UsageError` for a link between what is no host."""
    found: dict[Direction, Link] = {}
    for text in filter(None, (part.strip() for part in cell.link.split(JOINT.strip()))):
        link = Link.parse(text)
        for source, target in _ends(experiment, link, text):
            if (source, target) in found:
                raise UsageError(f"--link {text!r}: {source}->{target} has a link already; give one for each direction")
            found[source, target] = replace(link, source=source, target=target, both=False)
    return found


def _ends(experiment: Experiment, link: Link, text: str) -> Iterator[Direction]:
    """The directions between hosts that a link covers."""
    own, where = here(experiment), f"--link {text!r}"
    hosts = [*hosts_of(experiment), *([] if own != CLIENT else [Host(name=CLIENT)])]
    pairs = 0
    for source_word, target_word in link.directions():
        for source in members(own if source_word == CLIENT else source_word, hosts, where):
            for target in members(own if target_word == CLIENT else target_word, hosts, where):
                if source != target:
                    pairs += 1
                    yield source, target
    if not pairs:
        raise UsageError(f"{where}: both ends are the same host; a link joins two hosts")


def check(experiment: Experiment) -> None:
    """Raise `UsageError` for machines, places and links that cannot be."""
    remote.check(experiment.cluster)
    if experiment.several_machines and not experiment.machines:
        raise UsageError(
            f"--cluster {experiment.cluster}: on which hosts? Give --hosts FILE or --hosts NAME:SERVERS,..."
        )
    for host in experiment.machines:
        limits = resource_limits.Limits(host.cpu, host.memory)
        if not experiment.several_machines:
            _check_part(host, limits)
    for cell in experiment.cells:
        if cell.on and not hosts_of(experiment):
            raise UsageError(f"--on {cell.on}: there are no hosts; give them with --hosts")
        servers(experiment, cell)
        if links(experiment, cell):
            _check_linked(experiment, cell)
    held(experiment)
    if experiment.several_machines:
        _check_several(experiment)


def _check_part(host: Host, limits: resource_limits.Limits) -> None:
    """Raise `UsageError` for a part of this machine that it cannot have."""
    try:
        resource_limits.check(limits)
    except UsageError as error:
        raise UsageError(f"host {host.name}: {error}") from error
    if missing := [core for core in host.cores if core not in cores()]:
        raise UsageError(f"host {host.name}: no core {missing[0]} here; valid: {', '.join(map(str, cores()))}")


def _check_linked(experiment: Experiment, cell: Cell) -> None:
    if experiment.kill:
        raise UsageError("--kill: the node that replaces the killed one is behind no link; leave --link or --kill out")
    if is_remote(cell.engine):
        raise UsageError(
            f"--link: the calls of engine {cell.engine} to its model servers cross no link; leave one of the two out"
        )
    kind = transports.kind(cell.transport)
    if not kind.crosses_network:
        raise UsageError(f"--link: a relay carries TCP, and transport {cell.transport} has none; leave one of them out")


def _check_several(experiment: Experiment) -> None:
    """Raise `UsageError` for what works on this machine alone."""
    where = f"--cluster {experiment.cluster}"
    for name in ("pin", "device"):
        if getattr(experiment, name) != SETTINGS[name].default:
            raise UsageError(f"{SETTINGS[name].flag}: it concerns this machine alone; leave it or {where} out")
    given = any(getattr(experiment, name) for name in TLS_FILES)
    for cell in experiment.cells:
        if runtimes.is_runtime(cell.transport):
            raise UsageError(f"--transport {cell.transport}: a runtime runs on one machine; leave it or {where} out")
        kind = transports.kind(cell.transport)
        if kind.addressing == "in-process":
            if is_remote(cell.engine):
                raise UsageError(f"--transport none: model servers listen on their own hosts; leave it or {where} out")
        elif not kind.crosses_network:
            raise UsageError(
                f"--transport {cell.transport}: both ends have to be on one machine; leave it or {where} out"
            )
        elif experiment.insecure != "on" and (not kind.secure or (given and kind.secure != "tls")):
            raise UsageError(
                f"--transport {cell.transport}: it has no TLS, which protects the way between hosts; leave it out, or "
                "measure without protection in a network that you trust: --insecure"
            )


def _most(experiment: Experiment) -> int:
    return max((cell.servers for cell in experiment.cells), default=1)
