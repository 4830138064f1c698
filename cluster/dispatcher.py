"""Finds the servers that await tensors, and sends the tensors there over a request's route."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from msgspec.structs import replace

from cluster.errors import Draining, StaleEpoch
from cluster.holders import Holders, has, holder_of
from cluster.leases import Holder
from cluster.packing import pack, unpack
from cluster.partition import Partition
from cluster.registry import fields_read, parse_holders, parse_links, positive, text, whole
from cluster.request import NO_STATS, Request, RequestStats, Route
from cluster.usage import Traffic
from transports.address import Address
from transports.base import Array, Message, Scalar, Transport, payload
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    UsageError,
    WireError,
    suggest,
)
from transports.packing import OFF
from transports.pool import Pool
from transports.spans import CLIENT, RECORDER, TRACEPARENT, Context

log = logging.getLogger("splitbench.cluster")

UNREACHABLE = (ConnectError, ConnectionLost, DeadlineExceeded, StaleEpoch, Draining)
"""Errors that may mean that the called server, or a server that it called in turn, has been replaced."""

FAILURE_NOTICE_TIMEOUT = 1.0
"""Seconds within which a client must accept the notice that its request failed, even if the request has more time."""


@dataclass(frozen=True)
class Delivery:
    """The tensors of one message to one server."""

    server: int
    """The index of the portion whose stages await the tensors."""
    holder: Holder
    tensors: Mapping[str, Array]


class _Answer(NamedTuple):
    """A cached answer of the registry, valid for the duration of a lease."""

    holders: Holders
    until: float
    """End of validity, on the monotonic clock."""


class _Registry(NamedTuple):
    """The settings of a registry, from its last answer."""

    lease: float
    """Duration of a lease in seconds."""
    replicas: int


class Dispatcher:
    """Finds servers and sends tensors, for all threads of a process. Each transport may have a registry of its own."""

    def __init__(self, transports: Mapping[str, Transport], registries: Mapping[str, Address], host: str = "") -> None:
        """`transports`: the transports by name. `registries`: the address of the registry on each transport. `host`:
        the name of this host, for emulated links."""
        self.traffic = Traffic()
        self._host = host
        self._relays: Mapping[str, Mapping[Address, Address]] = {}
        """Transport -> address -> the relay to that address. Filled by the first request over emulated links."""
        self.transports = transports
        self._addresses = registries
        self._registries: dict[str, _Registry] = {}
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._answers: dict[tuple[str, str, str, str], _Answer] = {}
        self._avoided: dict[int, float] = {}
        self._closed = False
        self._lock = threading.Lock()

    def pinned(self, request: Request, partition: Partition) -> tuple[Request, RequestStats]:
        """`request` with a replica chosen for each portion of `partition`, and the statistics of the lookup.

        Replicas take turns from request to request; those that `avoid` marked are skipped unless a portion has no
        other. The request is returned unchanged if there are no replicas, and before the registry's first answer.
        """
        registry = self._registries.get(request.route.transport)
        if registry is None or registry.replicas < 2:
            return request, NO_STATS
        held, stats = self._look_up(request, "who", "", range(partition.servers))
        now = time.monotonic()
        pins = {}
        for server, holders in held.items():
            usable = [holder for holder in holders if self._avoided.get(holder.epoch, 0.0) <= now] or holders
            pins[server] = usable[request.turn % len(usable)].epoch
        return replace(request, pins=pins), stats

    def avoid(self, request: Request) -> None:
        """Skip the replicas to which the failed `request` was pinned, for the duration of a lease."""
        registry = self._registries.get(request.route.transport)
        now = time.monotonic()
        with self._lock:
            self._avoided = {epoch: until for epoch, until in self._avoided.items() if now < until}
            if registry:
                self._avoided |= dict.fromkeys(request.pins.values(), now + registry.lease)

    def deliveries(
        self, request: Request, partition: Partition, leaving: Mapping[str, Array]
    ) -> Iterator[tuple[Delivery, RequestStats]]:
        """The messages that bring each tensor to every server that awaits it, with the statistics of the lookups.

        Raises `NoServer` for a portion without a holder, since a missing successor does not mean the end of the model.
        """
        found: dict[str, Holders] = {}
        for server, names in partition.messages(tuple(leaving), request.route.local_calls, request.route.send):
            stats = NO_STATS
            for name in names:
                if name not in found:
                    to = partition.destinations(name, request.route.local_calls)
                    found[name], lookup = self._look_up(request, "where", name, to)
                    stats += lookup
                holder = holder_of(request, found[name], server, name, partition)
            yield Delivery(server, holder, {name: leaving[name] for name in names}), stats

    def send(
        self, request: Request, delivery: Delivery, carry: RequestStats | None = None
    ) -> tuple[Message, RequestStats]:
        """Send `delivery`; returns the server's answer and the statistics of sending.

        `carry`: statistics to attach to the message, in flows whose answers carry none. Raises a `WireError`, which
        names the server if it cannot be reached.
        """
        fields = request.fields()
        fields["epoch"] = delivery.holder.epoch
        sent, address = payload(delivery.tensors), delivery.holder.address
        tensors, packing = self._packed(request, address, delivery.tensors, fields)
        if carry is not None:
            fields.update((carry + packing).fields())
        message = Message("infer", fields, tensors)
        if carry is not None:  # count before sending: the client may get its outputs before this call returns
            self.traffic.add(address, sent, 0)
        try:
            reply, made = self.call(request, address, message)
        except UNREACHABLE as error:
            self._forget(delivery.holder)
            if error.remote or not isinstance(error, (ConnectError, ConnectionLost)):
                raise
            raise type(error)(f"server {delivery.server}: {error}") from error
        reply, unpacking = unpack(reply, request.route, self.transports, request.trace)
        back = reply.payload
        if carry is None:
            self.traffic.add(address, sent, back)
        return reply, RequestStats(messages=1, payload=sent + back, connects=made) + packing + unpacking

    def send_result(self, request: Request, outputs: Mapping[str, Array], stats: RequestStats) -> None:
        """Send model outputs and the statistics so far to the client's result receiver."""
        fields, address = request.fields(), Address.parse(request.reply_to)
        tensors, packing = self._packed(request, address, outputs, fields, answer=True)
        self.traffic.add(address, payload(outputs), 0)  # count before the client has the outputs
        self.call(request, address, Message("result", fields | (stats + packing).fields(), tensors))

    def send_failure(self, request: Request, error: WireError) -> None:
        """Notify the client's result receiver that the request failed with `error`. If this fails too, log it."""
        fields = {"request": request.id, "kind": error.kind, "text": str(error)}
        try:
            address, route = Address.parse(request.reply_to), request.route
            if route.linked:
                address = self._relay(route, FAILURE_NOTICE_TIMEOUT).get(address, address)
            self._pool(route).call(address, Message("failed", fields), FAILURE_NOTICE_TIMEOUT)
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
        if request.trace is not None:
            return self._traced(request, request.trace, address, message)
        return self._call(request, address, message)

    def _traced(self, request: Request, trace: Context, address: Address, message: Message) -> tuple[Message, int]:
        """`call`, recorded as a span whose context the message carries, unless it goes to the registry."""
        begun = time.perf_counter()
        try:
            return self._call(request, address, message)
        finally:
            own = str(message.fields.get(TRACEPARENT, ""))
            name = "call" if own else "lookup"
            RECORDER.add(trace, name, begun, time.perf_counter(), CLIENT, message.method, own)

    def _call(self, request: Request, address: Address, message: Message) -> tuple[Message, int]:
        if (left := request.remaining) <= 0:
            raise DeadlineExceeded(f"request {request.id}: no time left to send {message.method!r} to {address}")
        if request.route.linked:
            address = self._relay(request.route, left).get(address, address)
        reply, made = self._pool(request.route).call(address, message, left)
        return reply, int(made)

    def _packed(
        self,
        request: Request,
        address: Address,
        tensors: Mapping[str, Array],
        fields: dict[str, Scalar],
        *,
        answer: bool = False,
    ) -> tuple[Mapping[str, Array], RequestStats]:
        """`tensors` as they cross the wire to `address`, packed if the route says so, and the statistics of packing."""
        route = request.route
        if route.wire == OFF:
            return tensors, NO_STATS
        near = route.linked and address not in self._relay(route, max(0.0, request.remaining))
        return pack(tensors, route, fields, near=near, answer=answer, trace=request.trace)

    def _relay(self, route: Route, timeout: float) -> Mapping[Address, Address]:
        """Address -> the relay through which this host reaches that address. Relays do not change during a run."""
        if (known := self._relays.get(route.transport)) is None:
            registry = self._registry(route.transport)
            question = Message("links", {"host": self._host})
            reply, _ = self._pool(route).call(registry, question, timeout)
            with fields_read(f"the registry at {registry} answered 'links' with"):
                known = parse_links(text(reply.fields, "links"))
            self._relays = {**self._relays, route.transport: known}
        return known

    def _look_up(
        self, request: Request, method: str, tensor: str, servers: range | frozenset[int]
    ) -> tuple[Holders, RequestStats]:
        """The registry's answer to `method`, and the statistics of the lookup.

        A cached answer is used if the route allows it, unless it has expired or lacks one of `servers` or a pinned
        replica. Retries bypass the cache.
        """
        route = request.route
        key = (method, route.partition, tensor, route.transport)
        if route.registry == "cached" and not request.attempt and (cached := self._answers.get(key)):
            pins = request.pins if method == "where" else {}
            if time.monotonic() < cached.until and has(cached.holders, servers, pins):
                return cached.holders, NO_STATS
        address = self._registry(route.transport)
        question = Message(method, {"partition": route.partition, "tensor": tensor, "transport": route.transport})
        reply, made = self.call(request, address, question)
        with fields_read(f"the registry at {address} answered {method!r} with"):
            found = parse_holders(text(reply.fields, "servers"))
            lease, replicas = positive(reply.fields, "ttl"), whole(reply.fields, "replicas")
        self._registries[route.transport] = _Registry(lease, replicas)
        self._answers[key] = _Answer(found, time.monotonic() + lease)
        return found, RequestStats(lookups=1, connects=made)

    def _registry(self, transport: str) -> Address:
        """The address of the registry over `transport`. Raises `MalformedMessage` if there is none."""
        if (address := self._addresses.get(transport)) is None:
            raise MalformedMessage(f"no registry over transport {transport!r}{suggest(transport, self._addresses)}")
        return address

    def _forget(self, holder: Holder) -> None:
        """Drop every cached answer that names `holder`."""
        for key, cached in list(self._answers.items()):
            if any(holder in holders for holders in cached.holders.values()):
                self._answers.pop(key, None)

    def _pool(self, route: Route) -> Pool:
        """The connection pool for `route`. Raises `MalformedMessage` if this process lacks its transport or codec."""
        key = (route.transport, route.connections, route.codec)
        with self._lock:
            if self._closed:
                raise ConnectError("the dispatcher is closed")
            if key not in self._pools:
                if (transport := self.transports.get(route.transport)) is None:
                    hint = suggest(route.transport, self.transports)
                    raise MalformedMessage(f"no transport {route.transport!r} in this process{hint}")
                try:
                    self._pools[key] = Pool(transport, mode=route.connections, codec=route.codec)
                except UsageError as error:
                    raise MalformedMessage(str(error)) from None
            return self._pools[key]
