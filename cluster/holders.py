"""The servers that hold the portions of a partition, and the choice of the server for a request."""

from __future__ import annotations

from collections.abc import Mapping

from cluster.errors import NoServer
from cluster.leases import Holder
from cluster.partition import Partition
from cluster.request import Request

Holders = Mapping[int, tuple[Holder, ...]]
"""Portion -> the servers that hold it."""


def has(holders: Holders, servers: range | frozenset[int], pins: Mapping[int, int]) -> bool:
    """Whether `holders` has a holder of each portion in `servers`, and the pinned holder of each pinned portion."""
    for server in servers:
        held = holders.get(server)
        if not held or (server in pins and all(holder.epoch != pins[server] for holder in held)):
            return False
    return True


def holder_of(request: Request, found: Holders, server: int, tensor: str, partition: Partition) -> Holder:
    """The holder of portion `server` for this request. Raises `NoServer` if there is none."""
    holders = found.get(server, ())
    pin = request.pins.get(server)
    usable = [holder for holder in holders if pin in (None, holder.epoch)]
    if not usable:
        stages = [stage.name for stage in partition.portion(server) if tensor in stage.inputs]
        who = "no server holds" if pin is None or not holders else f"the pinned replica (epoch {pin}) no longer holds"
        raise NoServer(f"{who} stage {stages[0]!r} (server {server}), which awaits tensor {tensor!r}")
    return usable[request.turn % len(usable)]
