"""Finds where tensors are awaited, and carries them there as a request's route says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from cluster.errors import Draining, NoServer, StaleEpoch
from cluster.leases import Holder
from cluster.partition import Partition
from cluster.registry import parse_holders
from cluster.request import Request, RequestStats, Route
from transports.address import Address
from transports.base import Array, Message, Transport
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, WireError
from transports.pool import Pool

log = logging.getLogger("splitbench.cluster")

Holders = Mapping[int, tuple[Holder, ...]]
"""Portion -> the servers that hold it."""
Key = tuple[str, str, str, str]
"""Of what the registry was asked: method, partition, tensor, transport."""

UNREACHABLE = (ConnectError, ConnectionLost, DeadlineExceeded, StaleEpoch, Draining)
"""Errors after which a server, or one behind it, may not be where it was."""

FAILURE_NOTICE_TIMEOUT = 1.0
"""Seconds that telling a client of a failure may take, whatever is left of its request."""


@dataclass(frozen=True)
class _Known:
    """What the registry said, and how long that may be relied on: as long as a lease lasts."""

    holders: Holders
    until: float


@dataclass(frozen=True)
class Delivery:
    """Tensors that go to one server in one message."""

    server: int
    """Whose portion awaits them."""
    holder: Holder
    tensors: Mapping[str, Array]


def bundles(to: Mapping[str, frozenset[int]], send: str) -> list[tuple[int, list[str]]]:
    """(server, tensor names) for each message: one for each server, or (`tensor`) one for each tensor and server."""
    if send == "tensor":
        return [(server, [name]) for name, servers in to.items() for server in sorted(servers)]
    servers = sorted({server for found in to.values() for server in found})
    return [(server, [name for name in to if server in to[name]]) for server in servers]


class Dispatcher:
    """One in each process; used by many threads at once."""

    def __init__(self, transports: Mapping[str, Transport], registries: Mapping[str, Address]) -> None:
        """`transports` by name, and where the registry is reached on each of them."""
        self._transports = transports
        self._registries = registries
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._known: dict[Key, _Known] = {}
        self._avoided: dict[int, float] = {}
        self._lease, self._replicas = 0.0, 1
        self._closed = False
        self._lock = threading.Lock()

    def pinned(self, request: Request, partition: Partition) -> tuple[Request, RequestStats]:
        """`request` with a server chosen for each portion of `partition` that several may hold, and what that cost.

        They take turns, request by request. Whoever was `avoid`ed is left out while there is another.
        """
        if self._replicas < 2:
            return request, RequestStats()
        everyone = frozenset(range(partition.servers))
        held, stats = self._ask(request, "who", enough=lambda holders: everyone <= holders.keys())
        now = time.monotonic()
        pins = {}
        for server, holders in held.items():
            there = [holder for holder in holders if self._avoided.get(holder.epoch, 0.0) <= now] or holders
            pins[server] = there[request.turn % len(there)].epoch
        return replace(request, pins=pins), stats

    def avoid(self, request: Request) -> None:
        """Leave the servers of `request`, which was lost, out of the turns for as long as a lease lasts."""
        now = time.monotonic()
        with self._lock:
            self._avoided = {epoch: until for epoch, until in self._avoided.items() if now < until}
            self._avoided |= dict.fromkeys(request.pins.values(), now + self._lease)

    def deliveries(
        self, request: Request, partition: Partition, leaving: Mapping[str, Array]
    ) -> Iterator[tuple[Delivery, RequestStats]]:
        """What has to be sent so that each tensor reaches every server that awaits it, in the order of production.

        With it comes what finding the addresses cost. Raises `NoServer` for a server that is not there: a missing
        successor is never taken for the end of the model.
        """
        found: dict[str, Holders] = {}
        to = {name: partition.destinations(name, request.route.local_calls) for name in leaving}
        for server, names in bundles(to, request.route.send):
            stats = RequestStats()
            for name in names:
                if name not in found:
                    found[name], asked = self._find(request, name, to[name])
                    stats += asked
                holder = _holder(request, found[name], server, name, partition)
            yield Delivery(server, holder, {name: leaving[name] for name in names}), stats

    def send(
        self, request: Request, delivery: Delivery, carry: RequestStats | None = None
    ) -> tuple[Message, RequestStats]:
        """Carry `delivery` over and return the server's answer, and what carrying it cost.

        `carry` goes along: what the request has cost so far, where no answer will tell. Raises a `WireError`; one that
        says that the server is not there names it.
        """
        fields = request.fields() | {"epoch": delivery.holder.epoch} | (carry.fields() if carry else {})
        message = Message("infer", fields, delivery.tensors)
        try:
            reply, made = self.call(request, delivery.holder.address, message)
        except UNREACHABLE as error:
            self._forget(delivery.holder)
            if error.remote or not isinstance(error, (ConnectError, ConnectionLost)):
                raise
            raise type(error)(f"server {delivery.server}: {error}") from error
        cost = RequestStats(messages=1, payload=message.payload + reply.payload, connects=made)
        return reply, cost

    def deliver(self, request: Request, outputs: Mapping[str, Array], cost: RequestStats) -> None:
        """Send outputs of the model to the client, with what they have cost."""
        self.call(
            request, Address.parse(request.reply_to), Message("result", request.fields() | cost.fields(), outputs)
        )

    def report_failure(self, request: Request, error: WireError) -> None:
        """Tell the client why there will be no outputs. One that is gone needs no telling."""
        fields = {"request": request.id, "kind": error.kind, "text": str(error)}
        try:
            pool = self._pool(request.route)
            pool.call(Address.parse(request.reply_to), Message("failed", fields), FAILURE_NOTICE_TIMEOUT)
        except WireError as lost:
            log.warning("request %s: %s; and the client cannot be told: %s", request.id, error, lost)

    def call(self, request: Request, address: Address, message: Message) -> tuple[Message, int]:
        """The answer of the server at `address`, and how many connections were made for it. Raises `WireError`."""
        if request.remaining <= 0:
            raise DeadlineExceeded(f"request {request.id}: no time left to send {message.method!r} to {address}")
        reply, made = self._pool(request.route).call(address, message, request.remaining)
        return reply, int(made)

    def close(self) -> None:
        """Let go of every connection, and make no more."""
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def _find(self, request: Request, tensor: str, awaited_by: frozenset[int]) -> tuple[Holders, RequestStats]:
        """Where `tensor` is awaited. What is remembered has to have every server, and those of the request's pins."""
        return self._ask(request, "where", tensor, enough=lambda found: _has(found, awaited_by, request.pins))

    def _ask(
        self, request: Request, method: str, tensor: str = "", *, enough: Callable[[Holders], bool]
    ) -> tuple[Holders, RequestStats]:
        """What the registry answers, or has answered within a lease, where that is `enough`; and what asking cost."""
        route = request.route
        key = (method, route.partition, tensor, route.transport)
        known = self._known.get(key) if route.registry == "cached" and not request.attempt else None
        if known and time.monotonic() < known.until and enough(known.holders):
            return known.holders, RequestStats()
        question = Message(method, {"partition": route.partition, "tensor": tensor, "transport": route.transport})
        reply, made = self.call(request, self._registries[route.transport], question)
        found = parse_holders(str(reply.fields["servers"]))
        self._lease, self._replicas = float(reply.fields["ttl"]), int(reply.fields["replicas"])
        self._known[key] = _Known(found, time.monotonic() + self._lease)
        return found, RequestStats(lookups=1, connects=made)

    def _forget(self, holder: Holder) -> None:
        """Ask the registry again before anything is sent where `holder` was known to be."""
        for key, known in list(self._known.items()):
            if any(holder in holders for holders in known.holders.values()):
                self._known.pop(key, None)

    def _pool(self, route: Route) -> Pool:
        key = (route.transport, route.connections, route.codec)
        with self._lock:
            if self._closed:
                raise ConnectError("this end is closed, and sends nothing more")
            if key not in self._pools:
                transport = self._transports[route.transport]
                self._pools[key] = Pool(transport, mode=route.connections, codec=route.codec)
            return self._pools[key]


def _has(holders: Holders, servers: frozenset[int], pins: Mapping[int, int]) -> bool:
    """Whether there is somebody for each of `servers`, and where it is pinned, that one."""
    epochs = {server: [holder.epoch for holder in holders.get(server, ())] for server in servers}
    return all(found and pins.get(server, found[0]) in found for server, found in epochs.items())


def _holder(request: Request, found: Holders, server: int, tensor: str, partition: Partition) -> Holder:
    """Who serves the portion `server` of the request. Raises `NoServer` where nobody does."""
    holders = found.get(server, ())
    pin = request.pins.get(server)
    meant = [holder for holder in holders if pin in (None, holder.epoch)]
    if not meant:
        stages = [stage.name for stage in partition.portion(server) if tensor in stage.inputs]
        whom = "nobody holds" if pin is None or not holders else f"who was to serve the request (epoch {pin}) has left"
        raise NoServer(f"{whom} stage {stages[0]!r} (server {server}), which awaits tensor {tensor!r}")
    return meant[request.turn % len(meant)]
