"""Assigns a node of a Ray cluster to each host of an experiment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from cluster.hosts import Host
from transports.errors import UsageError, suggest

START = "start one with `ray start --address=HEAD:PORT"


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node of a Ray cluster that is alive."""

    identity: str
    """Ray's own name of the node."""
    address: str
    name: str = ""
    """The host name of the machine."""
    labels: Mapping[str, str] = {}
    cpus: float = 1.0
    free: float = 1.0
    """CPUs that no task or actor has reserved."""
    here: bool = False
    """Whether the node is the machine on which the run was started."""


def cpus(host: Host) -> int:
    """The number of CPUs to reserve for the host."""
    return host.threads or 1


def assign(hosts: Sequence[Host], nodes: Sequence[Node]) -> list[Node]:
    """A different node for each host, the same for the same arguments. Raises `UsageError` if a host finds none.

    A host gets a node with its labels, its address and enough CPUs for its threads; with `client`, the machine of the
    run. Among these, nodes with free CPUs are preferred to busy nodes, and other machines to the machine of the run, on
    which the client would compete with the host.
    """
    nodes = sorted(nodes, key=lambda node: (len(node.address), node.address, node.identity))
    if len(hosts) > len(nodes):
        raise UsageError(f"{len(hosts)} hosts, and a Ray cluster of {len(nodes)} nodes: {START}`, or use fewer hosts")
    usable = {host.name: _usable(host, nodes) for host in hosts}
    preferences: tuple[Callable[[Host, Node], bool], ...] = (
        lambda host, node: node.free >= cpus(host) and node.here == host.client,
        lambda host, node: node.free >= cpus(host),
        lambda host, node: True,
    )
    for preferred in preferences:
        wanted = {host.name: [node for node in usable[host.name] if preferred(host, node)] for host in hosts}
        found, lacking = _match(wanted)
        if not lacking:
            return [found[host.name] for host in hosts]
    names = ", ".join(node.address for node in usable[lacking])
    raise UsageError(
        f"host {lacking}: other hosts need every node that it can use ({names}): {START}`, or change labels"
    )


def _usable(host: Host, nodes: Sequence[Node]) -> list[Node]:
    """The nodes that the host can use. Raises `UsageError` if there are none."""
    where = f"host {host.name}"
    found = [node for node in nodes if host.address in ("", node.address, node.name)]
    if not found:
        raise UsageError(f"{where}: no node of the Ray cluster has its address {host.address}{_valid(host, nodes)}")
    labelled = [node for node in found if host.labels.items() <= node.labels.items()]
    if not labelled:
        label = ",".join(f"{key}={value}" for key, value in host.labels.items())
        at = f" at {host.address}" if host.address else ""
        raise UsageError(
            f'{where}: no node of the Ray cluster{at} has the labels {label}: {START} --labels "{label}"` '
            f"(labels that nodes have: {_labels(found)})"
        )
    large = [node for node in labelled if node.cpus >= cpus(host)]
    if not large:
        most = max(node.cpus for node in labelled)
        raise UsageError(f"{where}: no node for it has {cpus(host)} CPUs; give it at most {most:g} threads")
    here = [node for node in large if node.here or not host.client]
    if not here:
        raise UsageError(f"{where}: it has client = true, but the node of this machine is none for it; change one")
    return here


def _valid(host: Host, nodes: Sequence[Node]) -> str:
    return suggest(host.address, [node.address for node in nodes])


def _labels(nodes: Sequence[Node]) -> str:
    found = {f"{key}={value}" for node in nodes for key, value in node.labels.items() if key != "ray.io/node-id"}
    return ", ".join(sorted(found)) or "none"


def _match(wanted: Mapping[str, Sequence[Node]]) -> tuple[dict[str, Node], str]:
    """A node for each host from its list `wanted`, and the first host without a node (empty: all hosts have one).

    If all nodes of a host are taken, the hosts that have them look for other nodes (augmenting paths), so that a
    complete assignment is found if one exists.
    """
    holders: dict[str, str] = {}

    def place(host: str, tried: set[str]) -> bool:
        untried = [node.identity for node in wanted[host] if node.identity not in tried]
        tried.update(untried)
        vacant = (node for node in untried if node not in holders)
        found = next(vacant, None) or next((node for node in untried if place(holders[node], tried)), None)
        if found is not None:
            holders[found] = host
        return found is not None

    lacking = next((host for host in wanted if not place(host, set())), "")
    by_identity = {node.identity: node for nodes in wanted.values() for node in nodes}
    return {host: by_identity[identity] for identity, host in holders.items()}, lacking
