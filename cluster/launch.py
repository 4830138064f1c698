"""A registry and its nodes as processes, started by any launcher (`cluster.launchers`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from cluster.config import NodeConfig, RegistryConfig
from cluster.device import PROCESSOR, Device
from cluster.hosts import HERE, Host, by_name, servers_of
from cluster.identity import NOBODY, Identity
from cluster.launchers.base import Launcher, Order
from cluster.manifest import digests, of_portion
from transports.address import Address


@dataclass(frozen=True)
class Settings:
    """The settings of a cluster's processes."""

    transports: tuple[str, ...]
    servers: int
    """Number of portions of the model."""
    exports: Path
    """The folder that `cluster.partition.export` wrote. It may be deleted once the cluster has been entered."""
    workers: int
    threads: int = 0
    malloc: str = "keep"
    device: Device = PROCESSOR
    """The device of the nodes. If it has cards, each node gets one card, in turn."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of transports: NAME.KEY -> value."""
    replicas: int = 1
    """Number of nodes for each portion of the model."""
    lease: float = 10.0
    """Seconds after which the registry drops a node that sends no heartbeats."""
    model_servers: Sequence[Mapping[str, Address]] = ()
    """For each portion, the addresses of its model server by interface; empty: no engine needs one."""
    hosts: Sequence[Host] = (HERE,)
    """The hosts with their addresses. The registry runs on the first; `cluster.hosts.servers_of` places the nodes."""
    identity: Identity = NOBODY
    """The files by which processes authenticate each other. Every host gets them, so `options` must name none."""
    insecure: bool = False
    """Whether processes may bind an address beyond this machine without TLS."""
    cores: Sequence[int] = ()
    """The cores for nodes: each node is pinned to one, in turn; empty: to the cores of its host."""


class Cluster:
    """A registry and `settings.replicas` nodes for each server, all of them ready. A context manager.

    `node-<i>` holds portion `i`; its replicas are `node-<i + servers>`, `node-<i + 2 * servers>`, and so on. Entering
    raises `ClusterDown`, with the name of the process and the last line of its log, if one ends before it is ready.
    """

    def __init__(
        self, settings: Settings, launcher: Launcher, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._notify = notify
        self._orders: dict[str, Order] = {}
        self._hosts = by_name(settings.hosts)
        self._options: dict[str, Mapping[str, str]] = {}
        self._ports = {host.name: host.port for host in settings.hosts}
        held = servers_of(settings.hosts, settings.servers)
        self.host_of = {f"node-{node}": held[node % settings.servers] for node in self._numbers()}
        self.host_of["registry"] = settings.hosts[0].name
        """Process -> the name of its host."""
        self.nodes = [f"node-{number}" for number in self._numbers()]
        self.registries: Mapping[str, Address] = {}
        """Transport -> address of the registry on it."""

    def __enter__(self) -> Self:
        settings = self._settings
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            for host in self._hosts:
                own = settings.identity.installed(self._launcher, host, settings.transports)
                self._options[host] = own | dict(settings.options)
            self._launcher.start(self._registry_order())
            self.registries = self._launcher.addresses("registry")
            files = digests(self._settings.exports)
            for number, name in enumerate(self.nodes):
                self._orders[name] = self._node_order(number, files)
                self._launcher.start(self._orders[name])
            self.wait_ready(self._notify)
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def addresses(self, name: str) -> Mapping[str, Address]:
        """Transport -> address of the process `name` on it. Waits until the process is ready. Raises `ClusterDown`."""
        return self._launcher.addresses(name)

    def wait_ready(self, notify: Callable[[str], None] = lambda text: None) -> None:
        """Return once every node is ready. Raises `ClusterDown` if one ends before that."""
        for name in self.nodes:
            self._launcher.addresses(name)
            notify(f"{name} ready")

    def replace(self, name: str) -> None:
        """Kill the node `name` and start a new one. Returns before the new node is ready (`wait_ready`).

        The new node takes the portion when the lease of the old one has run out.
        """
        self._launcher.kill([name])
        self._launcher.start(self._orders[name])

    def _close(self) -> None:
        self._launcher.stop([*self.nodes, "registry"])

    def _numbers(self) -> range:
        return range(self._settings.servers * self._settings.replicas)

    def _common(self, host: Host) -> dict[str, Any]:
        """The fields that every process on `host` has in its document. Reserves the host's next port."""
        settings, port = self._settings, self._ports[host.name]
        self._ports[host.name] += len(settings.transports) if port else 0
        return {
            "bind": host.bind or host.address,
            "advertise": host.address,
            "port": port,
            "cores": host.cores,
            "cpu": host.cpu,
            "memory": host.memory,
            "transports": settings.transports,
            "options": dict(self._options[host.name]),
            "insecure": settings.insecure,
        }

    def _registry_order(self) -> Order:
        settings, host = self._settings, self._settings.hosts[0]
        config = RegistryConfig(
            **self._common(host) | {"cpu": 0.0, "memory": 0},  # a host's limits apply to its nodes only
            # Each node and each client has one or two calls to the registry open at a time.
            workers=2 * len(self.nodes) + 8,
            servers=settings.servers,
            replicas=settings.replicas,
            lease=settings.lease,
        )
        return Order("registry", config, host=host.name, title=_title("registry", host))

    def _node_order(self, number: int, files: Mapping[str, str]) -> Order:
        settings, name = self._settings, self.nodes[number]
        portion, host = number % settings.servers, self._hosts[self.host_of[name]]
        own = of_portion(files, portion)
        cores = (settings.cores[number % len(settings.cores)],) if settings.cores else host.cores
        config = NodeConfig(
            **self._common(host) | {"cores": cores},
            device=settings.device.share(number),
            files=own,
            workers=settings.workers,
            registry={name: str(address) for name, address in self.registries.items()},
            portion=portion,
            slowdown=host.slowdown,
            host=host.name,
            patience=2 * settings.lease,
            threads=host.threads or settings.threads,
            malloc="keep" if settings.malloc == "keep" else "default",
            model_servers=tuple(
                {name: str(address) for name, address in server.items()} for server in settings.model_servers
            ),
        )
        contents = {sha256: settings.exports / path for path, sha256 in own.items()}
        return Order(name, config, contents, host.name, _title(name, host))


def _title(name: str, host: Host) -> str:
    """The name of a process in error texts."""
    return name if host.name == HERE.name else f"{name} on host {host.name}"
