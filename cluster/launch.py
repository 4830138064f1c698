"""The processes of a cluster, a registry and its nodes, started through any launcher (`cluster.launchers`)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from cluster.config import NodeConfig, RegistryConfig
from cluster.launchers.base import Launcher, Order
from cluster.manifest import digests, of_portion
from transports.address import Address


@dataclass(frozen=True)
class Host:
    """Where processes run. `name` is the launcher's name for it."""

    name: str = ""
    bind: str = "127.0.0.1"
    """The address that is bound there."""
    advertise: str = ""
    """The address under which others reach it; empty: the one bound."""


@dataclass(frozen=True)
class Settings:
    """What a cluster consists of, and how its processes run."""

    transports: tuple[str, ...]
    servers: int
    """Portions of the model."""
    exports: Path
    """What `cluster.partition.export` wrote. It may be deleted once the cluster has been entered."""
    workers: int
    threads: int = 0
    malloc: str = "keep"
    options: Mapping[str, str] = field(default_factory=dict)
    """Of the transports: NAME.KEY -> value."""
    replicas: int = 1
    """Nodes for each portion of the model."""
    lease: float = 10.0
    """Seconds until a node that is gone is absent from the registry."""
    model_servers: Sequence[Mapping[str, Address]] = ()
    """For each server, the addresses of its model server by interface: for the engines that call one."""
    hosts: Sequence[Host] = (Host(),)
    """The nodes take them in turn; the registry runs on the first."""
    insecure: bool = False
    """Whether an address beyond this machine may be bound without TLS."""
    cores: Sequence[int] = ()
    """Cores that the nodes take in turn, one each; empty: every node may use all."""


class Cluster:
    """A registry and `settings.replicas` nodes for each server, all of them ready. A context manager.

    `node-<i>` holds portion `i`; the second node with that portion is `node-<i + servers>`, and so on. Entering raises
    `ClusterDown`, with the name of the process and the last line of its log, if one ends before it is ready.
    """

    def __init__(
        self, settings: Settings, launcher: Launcher, notify: Callable[[str], None] = lambda text: None
    ) -> None:
        self._settings = settings
        self._launcher = launcher
        self._notify = notify
        self._orders: dict[str, Order] = {}
        self.nodes = [f"node-{number}" for number in range(settings.servers * settings.replicas)]
        self.registries: Mapping[str, Address] = {}
        """Transport -> address of the registry."""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
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

    def wait_ready(self, notify: Callable[[str], None] = lambda text: None) -> None:
        """Return once every node is ready. Raises `ClusterDown` if one ends before that."""
        for name in self.nodes:
            self._launcher.addresses(name)
            notify(f"{name} ready")

    def replace(self, name: str) -> None:
        """Kill the node `name` and start another in its place, which takes the portion once its lease has run out.

        Returns at once: the new node has to load its portion, and the old one's lease has to end.
        """
        self._launcher.kill([name])
        self._launcher.start(self._orders[name])

    def _close(self) -> None:
        self._launcher.stop([*self.nodes, "registry"])

    def _registry_order(self) -> Order:
        settings, host = self._settings, self._settings.hosts[0]
        config = RegistryConfig(
            bind=host.bind,
            advertise=host.advertise,
            transports=settings.transports,
            options=dict(settings.options),
            insecure=settings.insecure,
            # Every node and the client have one question open at a time, and there may be several clients.
            workers=2 * len(self.nodes) + 8,
            servers=settings.servers,
            replicas=settings.replicas,
            lease=settings.lease,
        )
        return Order("registry", config, host=host.name)

    def _node_order(self, number: int, files: Mapping[str, str]) -> Order:
        settings = self._settings
        portion, host = number % settings.servers, settings.hosts[number % len(settings.hosts)]
        own = of_portion(files, portion)
        config = NodeConfig(
            bind=host.bind,
            advertise=host.advertise,
            cores=(settings.cores[number % len(settings.cores)],) if settings.cores else (),
            files=own,
            transports=settings.transports,
            options=dict(settings.options),
            insecure=settings.insecure,
            workers=settings.workers,
            registry={name: str(address) for name, address in self.registries.items()},
            portion=portion,
            patience=2 * settings.lease,
            threads=settings.threads,
            malloc="keep" if settings.malloc == "keep" else "default",
            model_servers=tuple(
                {name: str(address) for name, address in server.items()} for server in settings.model_servers
            ),
        )
        contents = {sha256: settings.exports / path for path, sha256 in own.items()}
        return Order(self.nodes[number], config, contents, host.name)
