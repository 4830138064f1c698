"""Leases: which server holds which portion of the model, and until when. No I/O: `cluster.registry` has the protocol.

Rules:
  - Each lease has an *epoch*, a number that is used once. Messages name the epoch of their receiver, and nodes reject
    messages for another epoch.
  - An epoch is the time of its lease in microseconds since 1970, and each epoch is larger than the one before. So a
    restarted registry recognises the epochs that an earlier registry gave: they lie before its own start. A server
    with such an epoch keeps it. All other unknown epochs belong to leases that have ended; their servers get new ones.
  - A lease ends if it is not renewed within `ttl` seconds. The registry then no longer names its server.
  - A portion may have several holders (`replicas`). A server that claims no portion gets one with the fewest holders.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cluster.errors import NoPortion, StaleEpoch
from transports.address import Address

LEAST_LEASE = 0.2
"""Duration of the shortest lease in seconds: more frequent heartbeats would slow requests down."""


class Holder(NamedTuple):
    """A server that holds a portion: its epoch, and its address on one transport."""

    epoch: int
    address: Address


@dataclass
class Lease:
    """The right of one server to hold one portion."""

    server: int
    """The portion's index."""
    epoch: int
    addresses: Mapping[str, Address]
    """The server's addresses by transport."""
    expires: float
    awaited: dict[str, frozenset[str]] = field(default_factory=dict)
    """Partition -> the tensors that the server awaits."""


class Leases:
    """Portions `0 .. servers - 1`, each held by up to `replicas` servers. Thread-safe."""

    def __init__(
        self, servers: int, replicas: int = 1, ttl: float = 10.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.ttl = ttl
        self.replicas = replicas
        self._servers = servers
        self._clock = clock
        self._began = self._last = time.time_ns() // 1000
        self._held: dict[int, Lease] = {}
        self._lock = threading.Lock()

    def take(self, addresses: Mapping[str, Address], claim: int | None = None, epoch: int = 0) -> Lease:
        """A new lease for the server at `addresses`: of portion `claim` (None: a portion with the fewest holders).

        `epoch` is the epoch of the server's last lease (0: none); the server keeps it if an earlier registry gave it.
        If another lease names one of the addresses, that lease ends. Raises `NoPortion` if the portion, or every
        portion, has enough holders.
        """
        with self._lock:
            self._drop(lease.epoch for lease in self._live() if set(lease.addresses.values()) & set(addresses.values()))
            server = self._place(claim)
            if not 0 < epoch < self._began or epoch in self._held:
                self._last = epoch = max(self._last + 1, time.time_ns() // 1000)
            lease = self._held[epoch] = Lease(server, epoch, dict(addresses), self._clock() + self.ttl)
            return lease

    def renew(self, epoch: int) -> None:
        """Extend a lease by `ttl` seconds from now. Raises `StaleEpoch` if no lease has this epoch."""
        with self._lock:
            self._find(epoch).expires = self._clock() + self.ttl

    def leave(self, epoch: int) -> None:
        """End the lease with this epoch, if it has not ended yet."""
        with self._lock:
            self._drop([epoch])

    def report(self, epoch: int, partition: str, tensors: Iterable[str]) -> None:
        """Record the `tensors` of `partition` that the server with this epoch awaits. Raises `StaleEpoch`."""
        with self._lock:
            self._find(epoch).awaited[partition] = frozenset(tensors)

    def where(self, partition: str, tensor: str, transport: str) -> dict[int, tuple[Holder, ...]]:
        """Portion -> its holders that await `tensor`, by ascending epoch. It has only portions with such a holder."""
        return self._holders(transport, lambda lease: tensor in lease.awaited.get(partition, ()))

    def who(self, partition: str, transport: str) -> dict[int, tuple[Holder, ...]]:
        """Portion -> its holders that are ready for `partition`, by ascending epoch."""
        return self._holders(transport, lambda lease: partition in lease.awaited)

    def _holders(self, transport: str, chosen: Callable[[Lease], bool]) -> dict[int, tuple[Holder, ...]]:
        with self._lock:
            live = sorted(self._live(), key=lambda lease: (lease.server, lease.epoch))
            found = [lease for lease in live if transport in lease.addresses and chosen(lease)]
        holders: dict[int, tuple[Holder, ...]] = {}
        for lease in found:
            holders[lease.server] = (*holders.get(lease.server, ()), Holder(lease.epoch, lease.addresses[transport]))
        return holders

    def _live(self) -> list[Lease]:
        now = self._clock()
        self._drop([epoch for epoch, lease in self._held.items() if lease.expires < now])
        return list(self._held.values())

    def _drop(self, epochs: Iterable[int]) -> None:
        for epoch in list(epochs):
            self._held.pop(epoch, None)

    def _find(self, epoch: int) -> Lease:
        lease = next((lease for lease in self._live() if lease.epoch == epoch), None)
        if lease is None:
            raise StaleEpoch(f"no lease has the epoch {epoch}: it has ended, or an earlier registry gave it")
        return lease

    def _place(self, claim: int | None) -> int:
        """The portion for a new lease. Raises `NoPortion`."""
        holders = [lease.server for lease in self._live()]
        if claim is not None and not 0 <= claim < self._servers:
            raise NoPortion(f"there is no portion {claim}: the model has {self._servers}, from 0 on")
        wanted = range(self._servers) if claim is None else [claim]
        server = min(wanted, key=holders.count)
        if holders.count(server) >= self.replicas:
            taken = f"all {self._servers} portions of the model are" if claim is None else f"portion {claim} is"
            raise NoPortion(f"{taken} taken; the lease of a server that is gone ends within {self.ttl:g} s")
        return server
