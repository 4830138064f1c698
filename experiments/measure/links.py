"""The emulated links of cells: starts relays, publishes their addresses, and imposes the links of each cell on them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import transports
from cluster.launch import Cluster
from cluster.links.emulation import EmulatedLinks
from cluster.machines import Machines
from cluster.result_receiver import ResultReceiver
from experiments.spec import machines as spec
from experiments.spec.experiment import Cell, Experiment
from transports.address import Address
from transports.base import Message

PATIENCE = 10.0
"""Seconds within which the registry has to answer."""


@dataclass(frozen=True)
class CellLinks:
    """Imposes the links of cells on the relays. Does nothing if no cell has a link."""

    experiment: Experiment
    relays: EmulatedLinks

    def impose(self, cell: Cell) -> None:
        """Impose the links of `cell`, before its requests. Raises a `WireError`."""
        self.relays.shape(spec.links(self.experiment, cell))

    def repeated(self, cell: Cell) -> int:
        """Bytes that relays have carried a second time until now; 0 for a cell without links."""
        return self.relays.repeated() if cell.link else 0


@contextlib.contextmanager
def started(experiment: Experiment, machines: Machines) -> Iterator[CellLinks]:
    """Start the relays that the cells need."""
    directions = {ends for cell in experiment.cells for ends in spec.links(experiment, cell)}
    pairs = {frozenset(ends) for ends in directions}
    with EmulatedLinks(machines, pairs, spec.here(experiment), experiment.seed) as relays:
        yield CellLinks(experiment, relays)


def publish(
    links: CellLinks, cluster: Cluster, receiver: ResultReceiver, made: Mapping[str, transports.Transport]
) -> None:
    """Put a relay before every address to which messages go, and publish it in the registry. Raises a `WireError`."""
    relays, names = links.relays, {cell.transport for cell in links.experiment.cells if cell.link}
    for name in names:
        targets = {cluster.registries[name]: cluster.host_of["registry"]}
        targets |= {cluster.addresses(node)[name]: cluster.host_of[node] for node in cluster.nodes}
        if relays.sources(relays.here):
            targets[receiver.address(name)] = relays.here
        with made[name].connect(cluster.registries[name]) as registry:
            for address, host in targets.items():
                for source in relays.sources(host):
                    _publish(registry, source, address, relays.reach(source, host, address))


def relayed(links: CellLinks, servers: Sequence[Mapping[str, Address]]) -> list[Mapping[str, Address]]:
    """The addresses by interface at which this process reaches the model servers `servers`: those of relays, if some
    cell has a link to the servers' hosts. Raises a `WireError`."""
    relays, held = links.relays, spec.held(links.experiment)
    found: list[Mapping[str, Address]] = []
    for number, addresses in enumerate(servers):
        host = held.get(number, "")
        linked = relays.here in relays.sources(host)
        found.append({name: relays.reach(relays.here, host, at) if linked else at for name, at in addresses.items()})
    return found


def _publish(registry: transports.Connection, host: str, address: Address, relay: Address) -> None:
    registry.call(Message("link", {"host": host, "address": str(address), "relay": str(relay)}), PATIENCE)
