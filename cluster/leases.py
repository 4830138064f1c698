"""Which server holds which portion of the model, and until when. No I/O: `cluster.registry` is its protocol.

Rules:
  - A lease has an *epoch*, a number that is given once. A server that lost its lease comes back under a new one, and
    what is sent to the old one is refused, so that nothing meant for a predecessor is ever taken for one's own.
  - Epochs are microseconds since 1970, or one more than the last. So a registry that was started anew, and remembers
    nothing, tells a lease of its predecessor (an epoch before its own start: its holder may keep it) from one that it
    has itself seen run out (refused).
  - A lease that is not renewed within `ttl` seconds is over: its server is absent from then on.
  - A portion may have several holders (`replicas`). A server that asks for none in particular is given one that is
    missing, and not the next number.
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
"""Seconds. Heartbeats of a shorter lease would take more time than some requests do."""


class Holder(NamedTuple):
    """A server that holds a portion: where it is reached on one transport, and under which epoch."""

    epoch: int
    address: Address


@dataclass
class Lease:
    """One server's hold of one portion."""

    server: int
    """The portion's index."""
    epoch: int
    addresses: Mapping[str, Address]
    """By transport."""
    expires: float
    awaited: dict[str, frozenset[str]] = field(default_factory=dict)
    """Partition -> the tensors that the server awaits."""


class Leases:
    """Shards `0 .. servers - 1`, each held by up to `replicas` servers. Any number of threads may use it."""

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
        """The lease of the server at `addresses`: of portion `claim`, or of the one that has the fewest holders.

        `epoch` is that of the lease which the server had; it is kept where another registry gave it. Whoever was at one
        of the addresses before is gone. Raises `NoPortion` where there is no room.
        """
        with self._lock:
            self._drop(lease.epoch for lease in self._live() if set(lease.addresses.values()) & set(addresses.values()))
            server = self._place(claim)
            kept = 0 < epoch < self._began and epoch not in self._held
            lease = Lease(server, epoch if kept else self._next(), dict(addresses), self._clock() + self.ttl)
            self._held[lease.epoch] = lease
            return lease

    def renew(self, epoch: int) -> None:
        """Another `ttl` seconds. Raises `StaleEpoch` for a lease that is over, or was never given here."""
        with self._lock:
            self._find(epoch).expires = self._clock() + self.ttl

    def leave(self, epoch: int) -> None:
        """The server wants to be sent nothing more."""
        with self._lock:
            self._drop([epoch])

    def report(self, epoch: int, partition: str, tensors: Iterable[str]) -> None:
        """Record what the server awaits. Raises `StaleEpoch`."""
        with self._lock:
            self._find(epoch).awaited[partition] = frozenset(tensors)

    def where(self, partition: str, tensor: str, transport: str) -> dict[int, tuple[Holder, ...]]:
        """Portion -> its holders that await `tensor`, in the order of their epochs; empty where nobody does."""
        return self._holders(transport, lambda lease: tensor in lease.awaited.get(partition, ()))

    def who(self, partition: str, transport: str) -> dict[int, tuple[Holder, ...]]:
        """Portion -> its holders that are ready for `partition`, in the order of their epochs."""
        return self._holders(transport, lambda lease: partition in lease.awaited)

    def _holders(self, transport: str, meant: Callable[[Lease], bool]) -> dict[int, tuple[Holder, ...]]:
        with self._lock:
            live = sorted(self._live(), key=lambda lease: (lease.server, lease.epoch))
            chosen = [lease for lease in live if transport in lease.addresses and meant(lease)]
        found: dict[int, tuple[Holder, ...]] = {}
        for lease in chosen:
            found[lease.server] = (*found.get(lease.server, ()), Holder(lease.epoch, lease.addresses[transport]))
        return found

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
            raise StaleEpoch(f"nobody holds a lease of epoch {epoch} here: it ran out, or another registry gave it")
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
            raise NoPortion(f"{taken} taken, and a server that is gone keeps its lease for {self.ttl:g} s")
        return server

    def _next(self) -> int:
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last
