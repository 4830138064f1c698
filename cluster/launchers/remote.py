"""The connections to the hosts of an experiment, by the kind of cluster, and the addresses of these hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from cluster.hosts import Host
from cluster.launchers import ssh as over_ssh
from cluster.launchers.pipe import Way
from transports.errors import UsageError, suggest

CLUSTERS = ("local", "ssh", "ray")


def check(cluster: str) -> None:
    """Raise `UsageError` for an invalid value of `--cluster`."""
    kind, _, head = cluster.partition(":")
    if kind not in CLUSTERS or (head and kind != "ray"):
        raise UsageError(f"--cluster {cluster}: no such cluster{suggest(cluster, [*CLUSTERS, 'ray:HOST:PORT'])}")


def ways_to(cluster: str, hosts: Sequence[Host], ssh: str) -> tuple[Mapping[str, Way], tuple[Host, ...]]:
    """Host -> the way to its fork server, and the hosts with their addresses. Raises `UsageError`."""
    ways: Mapping[str, Way]
    if cluster == "ssh":
        ways = {host.name: over_ssh.way(host, ssh) for host in hosts}
        found = [host.address or over_ssh.address(host, ssh) for host in hosts]
    else:
        from cluster.launchers import ray_hosts

        ways, found = ray_hosts.ways(cluster, hosts)
    return ways, tuple(
        msgspec.structs.replace(host, address=address) for host, address in zip(hosts, found, strict=True)
    )
