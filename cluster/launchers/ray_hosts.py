"""The connections to the hosts of an existing Ray cluster: a Ray driver for each (`cluster.launchers.ray_bridge`).

Ray itself is loaded only in separate programs. This machine has to be a node of the cluster, since a driver needs Ray's
daemon on its own machine. The user's variables apply: RAY_ADDRESS, RAY_AUTH_MODE, RAY_AUTH_TOKEN.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
from collections.abc import Mapping, Sequence

import msgspec

from cluster.hosts import Host
from cluster.launchers import ray_bridge
from cluster.launchers.pipe import Way, last_line
from cluster.launchers.ray_nodes import Node, assign, cpus
from transports.address import Address
from transports.errors import UsageError
from transports.process import command

SILENCE = 20.0
"""Seconds without an order of the launcher after which a fork server ends."""
CONNECT = 5.0
"""Seconds within which the head has to accept a connection."""
SURVEY = 20.0
"""Seconds within which Ray has to name its nodes."""
REMEDIES: Mapping[str, str] = {
    "No module named": "install this package there, in the Python that `python` of the host names",
    "Unknown option: -P": "give a Python of version 3.11 or newer as `python` of the host",
    "not found": "give the path of its Python as `python` of the host",
    "No such file or directory": "give the path of its Python as `python` of the host",
}
"""Part of the output of the fork server's Python -> advice for the user."""


def ways(cluster: str, hosts: Sequence[Host]) -> tuple[Mapping[str, Way], list[str]]:
    """Host -> the way to its fork server, and the address of each host in sequence. `cluster`: `ray[:HOST:PORT]`.

    Raises `UsageError` within 30 s.
    """
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--cluster ray: Ray is not installed; run pip install 'splitbench[ray]'")
    address = head(cluster)
    nodes = assign(hosts, survey(cluster, address))
    found = {}
    for host, node in zip(hosts, nodes, strict=True):
        words = (address, node.identity, str(cpus(host)), host.python)
        found[host.name] = Way(command(ray_bridge.__name__, *words), f"host {host.name}: its launcher", SILENCE, remedy)
    return found, [host.address or node.address for host, node in zip(hosts, nodes, strict=True)]


def head(cluster: str) -> str:
    """The reachable address of the cluster as HOST:PORT, or `auto`. Raises `UsageError`."""
    text = cluster.partition(":")[2]
    where, text = ("RAY_ADDRESS", os.environ.get("RAY_ADDRESS", "")) if not text else ("--cluster ray", text)
    if text in ("", "auto"):
        return "auto"
    if "//" in text:
        raise UsageError(
            f"{where}: {text} is an address of Ray Client, which is not supported; on a machine of the cluster use "
            "ray:HOST:PORT with the address of its head, as in ray:10.0.0.1:6379"
        )
    try:
        address = Address.parse(text)
    except ValueError:
        raise UsageError(f"{where}: {text!r} is not HOST:PORT, as in ray:10.0.0.1:6379") from None
    try:
        socket.create_connection((address.host, address.port), CONNECT).close()
    except OSError as error:
        raise UsageError(
            f"{where}: no Ray cluster answers at {text} ({error.strerror or error}); "
            f"start its head with `ray start --head --port={address.port}`, or give the right address"
        ) from None
    return str(address)


def survey(cluster: str, address: str) -> list[Node]:
    """The nodes of the cluster. Raises `UsageError`."""
    where = f"--cluster {cluster}"
    try:
        done = subprocess.run(
            command(ray_bridge.__name__, address, "survey"),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SURVEY,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UsageError(
            f"{where}: the Ray cluster names no nodes within {SURVEY:.0f} s; does `ray status` work?"
        ) from None
    if done.returncode:
        raise UsageError(f"{where}{last_line(done.stderr.decode(errors='replace'))}")
    return msgspec.json.decode(done.stdout, type=list[Node])


def remedy(status: int, log: str) -> str:
    """Advice for a bridge that failed and printed `log`: the end of an error text."""
    found = next((todo for part, todo in REMEDIES.items() if part in log), "")
    return f"; {found}" if found else ""
