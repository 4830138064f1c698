"""Reads the resources that nodes have used, before and after each block of requests, outside of timed requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from cluster.launch import Cluster
from cluster.usage import Usage
from experiments.spec.experiment import Cell
from experiments.spec.schedule import Block
from experiments.store import rows
from experiments.store.nodes import NodeBlock
from transports.address import Address
from transports.base import Message, Transport
from transports.pool import Pool

PATIENCE = 10.0
"""Seconds within which a node has to answer."""


class Reading(NamedTuple):
    """The resources that the processes of a run have used until a moment."""

    nodes: Mapping[str, Usage]
    """Name of a node -> its usage."""
    client: Mapping[Address, tuple[int, int]]
    """The traffic of this process (`Traffic.bytes`)."""


@dataclass(frozen=True)
class NodeUsage:
    """Asks the nodes of `cluster` over their first transport, with a connection that is closed after each answer."""

    cluster: Cluster
    transport: Transport
    client: Callable[[], Mapping[Address, tuple[int, int]]]
    """The traffic of this process."""
    writer: rows.Writer

    def read(self) -> Reading:
        """What each node, and this process, has used until now. Raises a `WireError`."""
        with contextlib.closing(Pool(self.transport, "per-hop")) as pool:
            nodes = {
                name: Usage.of(pool.call(address, Message("usage"), PATIENCE)[0])
                for name in self.cluster.nodes
                for address in [self.cluster.addresses(name)[self.transport.name]]
            }
        return Reading(nodes, self.client())

    def write(self, cell: Cell, block: Block, first: Reading, last: Reading) -> None:
        """Write a row for each node: what it used between the two readings."""
        before, after = first.nodes, last.nodes
        traffic = {name: _difference(after[name].traffic, before[name].traffic) for name in after}
        traffic["client"] = _difference(last.client, first.client)
        owner = {address: name for name in after for address in self.cluster.addresses(name).values()}
        received, sent = dict.fromkeys(after, 0), dict.fromkeys(after, 0)
        for caller, calls in traffic.items():
            for address, (there, back) in calls.items():
                for name, bytes_in, bytes_out in ((caller, back, there), (owner.get(address, ""), there, back)):
                    if name in received:
                        received[name] += bytes_in
                        sent[name] += bytes_out
        for name, usage in after.items():
            self.writer.append(
                NodeBlock(
                    cell,
                    block.number,
                    name,
                    self.cluster.host_of[name],
                    len(block.numbers),
                    usage.cpu - before[name].cpu,
                    usage.peak,
                    received[name],
                    sent[name],
                    usage.joules - before[name].joules,
                )
            )


def _difference(
    after: Mapping[Address, tuple[int, int]], before: Mapping[Address, tuple[int, int]]
) -> dict[Address, tuple[int, int]]:
    return {
        address: (there - before.get(address, (0, 0))[0], back - before.get(address, (0, 0))[1])
        for address, (there, back) in after.items()
    }
