"""Finds the servers that await tensors, and sends tensors there as a request's route says."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from cluster.errors import Draining, NoServer, StaleEpoch
from cluster.leases import Holder
from cluster.partition import Partition
from cluster.registry import parse_holders
from cluster.request import NO_STATS, Request, RequestStats, Route
from transports.address import Address
from transports.base import Array, Message, Transport
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, WireError
from transports.pool import Pool

log = logging.getLogger("splitbench.cluster")

Holders = Mapping[int, tuple[Holder, ...]]
"""Portion -> the servers that hold it."""

UNREACHABLE = (ConnectError, ConnectionLost, DeadlineExceeded, StaleEpoch, Draining)
"""Errors after which a server, or one behind it, may have moved."""

FAILURE_NOTICE_TIMEOUT = 1.0
"""Seconds that the notice of a failure to a client may take, however much time its request has left."""

ASKED = RequestStats(lookups=1)


@dataclass(frozen=True)
class Delivery:
    """Tensors that go to one server in one message."""

    server: int
    """The portion that awaits them."""
    holder: Holder
    tensors: Mapping[str, Array]


class _Answer(NamedTuple):
    """What the registry answered, valid until `until` (monotonic clock): for as long as a lease lasts."""

    holders: Holders
    until: float


class _Registry(NamedTuple):
    """Settings of the registry that is reached over one transport, from its last answer."""

    lease: float
    """Seconds."""
    replicas: int


class Dispatcher:
    """One per process, used by many threads at once. Each transport may have a registry of its own."""

    def __init__(self, transports: Mapping[str, Transport], registries: Mapping[str, Address]) -> None:
        """`transports` by name; `registries`: where the registry listens on each of them."""
        self._transports = transports
        self._addresses = registries
        self._registries: dict[str, _Registry] = {}
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._answers: dict[tuple[str, str, str, str], _Answer] = {}
        self._avoided: dict[int, float] = {}
        self._closed = False
        self._lock = threading.Lock()

    def pinned(self, request: Request, partition: Partition) -> tuple[Request, RequestStats]:
        """`request` with a replica chosen for each portion of `partition`, and the statistics of choosing.

        Replicas take turns from request to request. Those that were `avoid`ed are skipped while another is there.
        Without replicas, the request is returned as it is.
        """
        known = self._registries.get(request.route.transport)
        if known is None or known.replicas < 2:
            return request, NO_STATS
        held, stats = self._ask(request, "who", "", range(partition.servers))
        now = time.monotonic()
        pins = {}
        for server, holders in held.items():
            there = [holder for holder in holders if self._avoided.get(holder.epoch, 0.0) <= now] or holders
            pins[server] = there[request.turn % len(there)].epoch
        return replace(request, pins=pins), stats

    def avoid(self, request: Request) -> None:
        """Skip the replicas that `request`, which failed, was pinned to, for as long as a lease lasts."""
        known = self._registries.get(request.route.transport)
        now = time.monotonic()
        with self._lock:
            self._avoided = {epoch: until for epoch, until in self._avoided.items() if now < until}
            if known:
                self._avoided |= dict.fromkeys(request.pins.values(), now + known.lease)

    def deliveries(
        self, request: Request, partition: Partition, leaving: Mapping[str, Array]
    ) -> Iterator[tuple[Delivery, RequestStats]]:
        """The messages that bring each tensor to every server that awaits it, with the statistics of finding them.

        Raises `NoServer` for a portion without a holder: a missing successor never means the end of the model.
        """
        found: dict[str, Holders] = {}
        for server, names in partition.messages(tuple(leaving), request.route.local_calls, request.route.send):
            stats = NO_STATS
            for name in names:
                if name not in found:
                    to = partition.destinations(name, request.route.local_calls)
                    found[name], asked = self._ask(request, "where", name, to)
                    stats += asked
                holder = _holder(request, found[name], server, name, partition)
            yield Delivery(server, holder, {name: leaving[name] for name in names}), stats

    def send(
        self, request: Request, delivery: Delivery, carry: RequestStats | None = None
    ) -> tuple[Message, RequestStats]:
        """Send `delivery`; returns the server's answer and the statistics of sending.

        `carry`: statistics that travel with the message, where no answer brings them back. Raises a `WireError`; one
        that says that the server cannot be reached names it.
        """
        fields = request.fields()
        fields["epoch"] = delivery.holder.epoch
        if carry is not None:
            fields.update(carry.fields())
        message = Message("infer", fields, delivery.tensors)
        try:
            reply, made = self.call(request, delivery.holder.address, message)
        except UNREACHABLE as error:
            self._forget(delivery.holder)
            if error.remote or not isinstance(error, (ConnectError, ConnectionLost)):
                raise
            raise type(error)(f"server {delivery.server}: {error}") from error
        return reply, RequestStats(1, message.payload + reply.payload, 0, made)

    def send_result(self, request: Request, outputs: Mapping[str, Array], stats: RequestStats) -> None:
        """Send outputs of the model, and the statistics so far, to the client's result receiver."""
        message = Message("result", request.fields() | stats.fields(), outputs)
        self.call(request, Address.parse(request.reply_to), message)

    def send_failure(self, request: Request, error: WireError) -> None:
        """Tell the client's result receiver why there will be no outputs. A client that has gone is only logged."""
        fields = {"request": request.id, "kind": error.kind, "text": str(error)}
        try:
            pool = self._pool(request.route)
            pool.call(Address.parse(request.reply_to), Message("failed", fields), FAILURE_NOTICE_TIMEOUT)
        except WireError as lost:
            log.warning("request %s: %s; the client cannot be notified: %s", request.id, error, lost)

    def close(self) -> None:
        """Close every connection, and open no more."""
        with self._lock:
            self._closed = True
            pools, self._pools = self._pools, {}
        for pool in pools.values():
            pool.close()

    def call(self, request: Request, address: Address, message: Message) -> tuple[Message, int]:
        """The answer of the handler at `address`, and how many connections were opened. Raises a `WireError`."""
        if (left := request.remaining) <= 0:
            raise DeadlineExceeded(f"request {request.id}: no time left to send {message.method!r} to {address}")
        reply, made = self._pool(request.route).call(address, message, left)
        return reply, int(made)

    def _ask(
        self, request: Request, method: str, tensor: str, servers: range | frozenset[int]
    ) -> tuple[Holders, RequestStats]:
        """The registry's answer, and the statistics of asking.

        A cached answer is used where the route allows it, unless it has expired or lacks one of `servers` or a pinned
        replica. Retries always ask.
        """
        route = request.route
        key = (method, route.partition, tensor, route.transport)
        if route.registry == "cached" and not request.attempt and (known := self._answers.get(key)):
            pins = request.pins if method == "where" else {}
            if time.monotonic() < known.until and _has(known.holders, servers, pins):
                return known.holders, NO_STATS
        question = Message(method, {"partition": route.partition, "tensor": tensor, "transport": route.transport})
        reply, made = self.call(request, self._addresses[route.transport], question)
        found = parse_holders(str(reply.fields["servers"]))
        lease = float(reply.fields["ttl"])
        self._registries[route.transport] = _Registry(lease, int(reply.fields["replicas"]))
        self._answers[key] = _Answer(found, time.monotonic() + lease)
        return found, RequestStats(lookups=1, connects=made) if made else ASKED

    def _forget(self, holder: Holder) -> None:
        """Drop every cached answer that names `holder`."""
        for key, known in list(self._answers.items()):
            if any(holder in holders for holders in known.holders.values()):
                self._answers.pop(key, None)

    def _pool(self, route: Route) -> Pool:
        key = (route.transport, route.connections, route.codec)
        with self._lock:
            if self._closed:
                raise ConnectError("this end is closed, and sends nothing more")
            if key not in self._pools:
                transport = self._transports[route.transport]
                self._pools[key] = Pool(transport, mode=route.connections, codec=route.codec)
            return self._pools[key]


def _has(holders: Holders, servers: range | frozenset[int], pins: Mapping[int, int]) -> bool:
    """Whether each of `servers` has a holder and, where it is pinned, that one."""
    for server in servers:
        held = holders.get(server)
        if not held or (server in pins and all(holder.epoch != pins[server] for holder in held)):
            return False
    return True


def _holder(request: Request, found: Holders, server: int, tensor: str, partition: Partition) -> Holder:
    """The holder of portion `server` for this request. Raises `NoServer` where there is none."""
    holders = found.get(server, ())
    pin = request.pins.get(server)
    meant = [holder for holder in holders if pin in (None, holder.epoch)]
    if not meant:
        stages = [stage.name for stage in partition.portion(server) if tensor in stage.inputs]
        whom = "nobody holds" if pin is None or not holders else f"the pinned replica (epoch {pin}) no longer holds"
        raise NoServer(f"{whom} stage {stages[0]!r} (server {server}), which awaits tensor {tensor!r}")
    return meant[request.turn % len(meant)]
