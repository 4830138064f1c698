"""Assigns the servers of a cell to hosts, finds the links of a cell, and refuses impossible settings of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import msgspec

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
    """The hosts of an experiment. Without given hosts, each server is a host `server-0`, `server-1`, ... if a cell has
    a link; otherwise there are none."""
    if experiment.machines or not any(cell.link for cell in experiment.cells):
        return experiment.machines
    return tuple(Host(name=f"server-{server}", servers=(server,)) for server in range(_most(experiment)))


def held(experiment: Experiment) -> Mapping[int, str]:
    """Server -> the name of its host; none without hosts. Raises `UsageError` for a server on no host."""
    hosts, most = hosts_of(experiment), _most(experiment)
    given = any(host.servers for host in hosts)
    return servers_of(hosts, most if given else max(most, len(hosts))) if hosts else {}


def placed(experiment: Experiment, hosts: Sequence[Host]) -> tuple[Host, ...]:
    """`hosts` (the started hosts of the experiment), each with the servers that it holds in `experiment`."""
    of = held(experiment)
    return tuple(
        msgspec.structs.replace(host, servers=tuple(server for server, name in of.items() if name == host.name))
        for host in hosts
    )


def ports(experiment: Experiment, transports: int) -> Mapping[str, int]:
    """Host -> how many ports its nodes and, on the first host, the registry take over `transports` transports."""
    of = held(experiment)
    counts = {name: experiment.replicas * list(of.values()).count(name) for name in of.values()}
    first = [host.name for host in hosts_of(experiment)[:1]]
    names = dict.fromkeys([*first, *counts])
    return {name: transports * (counts.get(name, 0) + (name in first)) for name in names}


def servers(experiment: Experiment, cell: Cell) -> Sequence[int]:
    """The numbers of the `cell.servers` servers that a cell uses. Raises `UsageError` if its hosts hold too few."""
    if not cell.on:
        return range(cell.servers)
    return spread(cell.on, hosts_of(experiment), held(experiment), cell.servers)


def here(experiment: Experiment) -> str:
    """The name of the client's machine in links."""
    return next((host.name for host in experiment.machines if host.client), CLIENT)


def canonical_on(text: str) -> str:
    """The same text for the same hosts in the same order, whatever spaces it has."""
    return "+".join(word.strip() for word in text.split("+"))


def canonical_link(text: str) -> str:
    """The same text for the same links in the same order. Raises `UsageError` for a text that describes no link."""
    return JOINT.join(str(Link.parse(part)) for part in _parts(text))


def links(experiment: Experiment, cell: Cell) -> dict[Direction, Link]:
    """The emulated links of a cell by direction. Raises `UsageError` for a link whose end is not a host."""
    found: dict[Direction, Link] = {}
    for text in _parts(cell.link):
        link = Link.parse(text)
        for source, target in _ends(experiment, link, text):
            if (source, target) in found:
                raise UsageError(f"--link {text!r}: {source}->{target} has a link already; give one for each direction")
            found[source, target] = replace(link, source=source, target=target, both=False)
    return found


def _parts(text: str) -> list[str]:
    """`text`, which describes several links, split into one text for each link."""
    return [stripped for part in text.split(JOINT.strip()) if (stripped := part.strip())]


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
    """Raise `UsageError` for impossible machines, places and links."""
    remote.check(experiment.cluster)
    if experiment.several_machines and not experiment.machines:
        raise UsageError(
            f"--cluster {experiment.cluster}: on which hosts? Give --hosts FILE or --hosts NAME:SERVERS,..."
        )
    for host in experiment.machines:
        _check_limits(host, here=not experiment.several_machines)
        _check_limited(experiment, host)
    for cell in experiment.cells:
        if cell.on and not hosts_of(experiment):
            raise UsageError(f"--on {cell.on}: there are no hosts; give them with --hosts")
        servers(experiment, cell)
        if links(experiment, cell):
            _check_linked(experiment, cell)
    held(experiment)
    if experiment.several_machines:
        _check_several(experiment)


def _check_limits(host: Host, here: bool) -> None:
    """Raise `UsageError` for limits that no host can have, or that this machine cannot have if the host is `here`."""
    try:
        limits = resource_limits.Limits(host.cpu, host.memory)
        if not here:
            return
        resource_limits.check(limits)
    except UsageError as error:
        raise UsageError(f"host {host.name}: {error}") from error
    if missing := [core for core in host.cores if core not in cores()]:
        raise UsageError(f"host {host.name}: no core {missing[0]} here; valid: {', '.join(map(str, cores()))}")


def _check_limited(experiment: Experiment, host: Host) -> None:
    """Raise `UsageError` for limits of a host that would not apply to the processes that execute its stages."""
    if host.cores and experiment.pin != SETTINGS["pin"].default:
        raise UsageError(f"--pin: host {host.name} has cores; leave one of the two out")
    if not (host.threads or host.cores or host.cpu or host.memory or host.slowdown > 1):
        return
    for cell in experiment.cells:
        if is_remote(cell.engine) and host.slowdown > 1:
            raise UsageError(
                f"host {host.name}: slowdown concerns the stages of nodes, and with engine {cell.engine} model servers "
                "execute them; leave one of the two out"
            )
        if runtimes.is_runtime(cell.transport):
            raise UsageError(
                f"host {host.name}: its threads, slowdown, cores, cpu and memory are those of nodes and model servers, "
                f"and transport {cell.transport} executes the stages in other processes; leave one of the two out"
            )


def _check_linked(experiment: Experiment, cell: Cell) -> None:
    if experiment.kill:
        raise UsageError("--kill: the node that replaces the killed one is behind no link; leave --link or --kill out")
    kind = transports.kind(cell.transport)  # over none, the calls to model servers cross links
    if cell.transport != "none" and not kind.crosses_network:
        raise UsageError(f"--link: a relay carries TCP, and transport {cell.transport} has none; leave one of them out")


def _check_several(experiment: Experiment) -> None:
    """Raise `UsageError` for settings that work on a single machine only."""
    where = f"--cluster {experiment.cluster}"
    for name in ("pin", "device", "idle"):
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
    """The most servers of a cell whose servers, or their model servers, are processes on hosts."""
    return max((cell.servers for cell in experiment.cells if _on_hosts(cell)), default=1)


def _on_hosts(cell: Cell) -> bool:
    if runtimes.is_runtime(cell.transport):
        return False
    return is_remote(cell.engine) or transports.kind(cell.transport).addressing != "in-process"
