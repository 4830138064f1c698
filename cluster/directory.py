"""Finds the servers that await tensors: asks the registry, and caches its answers for the duration of a lease."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from cluster.holders import Holders, has, holder_of
from cluster.leases import Holder
from cluster.partition import Partition
from cluster.registry import fields_read, parse_holders, positive, text, whole
from cluster.request import NO_STATS, Request, RequestStats, Route
from transports.address import Address
from transports.base import Array, Message
from transports.errors import MalformedMessage, suggest

Call = Callable[[Request, Address, Message], tuple[Message, bool]]
"""A function that returns the answer of an address to a message, and whether it opened a connection for it."""


class Delivery(msgspec.Struct, frozen=True):
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


class _Targets(NamedTuple):
    """Where a server's tensors go, as cached answers of the registry say; valid as long as all of these answers."""

    messages: Sequence[tuple[int, Holder, tuple[str, ...]]]
    """(portion, its holder, tensor names) of each message."""
    until: float
    """End of validity, on the monotonic clock."""


class _Registry(NamedTuple):
    """The settings of a registry, from its last answer."""

    lease: float
    """Duration of a lease in seconds."""
    replicas: int


class Directory:
    """The servers that await tensors, for all threads of a process. Each transport may have a registry of its own."""

    def __init__(self, addresses: Mapping[str, Address], call: Call) -> None:
        """`addresses`: the address of the registry on each transport. `call`: asks the registry."""
        self._addresses = addresses
        self._call = call
        self._registries: dict[str, _Registry] = {}
        self._answers: dict[tuple[str, str, str, str], _Answer] = {}
        self._targets: dict[tuple[object, ...], _Targets] = {}
        """(the parts of the route that matter, tensor names) -> targets. Emptied whenever `_answers` changes."""
        self._avoided: dict[int, float] = {}
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
        route = request.route
        key = (route.partition, route.transport, route.local_calls, route.send, *leaving)
        alike = route.registry == "cached" and not request.attempt and not request.pins
        if alike and (known := self._targets.get(key)) and time.monotonic() < known.until:
            for server, holder, names in known.messages:
                tensors = leaving if len(names) == len(leaving) else {name: leaving[name] for name in names}
                yield Delivery(server, holder, tensors), NO_STATS
            return
        found: dict[str, Holders] = {}
        messages = []
        for server, names in partition.messages(tuple(leaving), route.local_calls, route.send):
            stats = NO_STATS
            for name in names:
                if name not in found:
                    to = partition.destinations(name, route.local_calls)
                    found[name], lookup = self._look_up(request, "where", name, to)
                    stats += lookup
                holder = holder_of(request, found[name], server, name, partition)
            messages.append((server, holder, names))
            yield Delivery(server, holder, {name: leaving[name] for name in names}), stats
        if alike:
            self._remember(key, route, messages, found)

    def registry(self, transport: str) -> Address:
        """The address of the registry over `transport`. Raises `MalformedMessage` if there is none."""
        if (address := self._addresses.get(transport)) is None:
            raise MalformedMessage(f"no registry over transport {transport!r}{suggest(transport, self._addresses)}")
        return address

    def forget(self, holder: Holder) -> None:
        """Drop every cached answer that names `holder`."""
        with self._lock:
            for key, cached in list(self._answers.items()):
                if any(holder in holders for holders in cached.holders.values()):
                    del self._answers[key]
            self._targets.clear()

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
        address = self.registry(route.transport)
        question = Message(method, {"partition": route.partition, "tensor": tensor, "transport": route.transport})
        reply, made = self._call(request, address, question)
        with fields_read(f"the registry at {address} answered {method!r} with"):
            found = parse_holders(text(reply.fields, "servers"))
            lease, replicas = positive(reply.fields, "ttl"), whole(reply.fields, "replicas")
        with self._lock:
            self._registries[route.transport] = _Registry(lease, replicas)
            self._answers[key] = _Answer(found, time.monotonic() + lease)
            self._targets.clear()
        return found, RequestStats(lookups=1, connects=int(made))

    def _remember(
        self,
        key: tuple[object, ...],
        route: Route,
        messages: Sequence[tuple[int, Holder, tuple[str, ...]]],
        found: Mapping[str, Holders],
    ) -> None:
        """Cache where the tensors of `key` go, if there is no choice of holders, and the answers are still cached."""
        if any(len(held) != 1 for holders in found.values() for held in holders.values()):
            return
        with self._lock:
            answers = [self._answers.get(("where", route.partition, name, route.transport)) for name in found]
            if all(answer and answer.holders is found[name] for answer, name in zip(answers, found, strict=True)):
                until = min((answer.until for answer in answers if answer), default=0.0)
                self._targets[key] = _Targets(messages, until)
