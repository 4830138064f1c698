"""Sends tensors to the servers that await them, over a request's route."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from cluster.directory import Delivery, Directory
from cluster.errors import Draining, StaleEpoch
from cluster.packing import pack, unpack
from cluster.registry import fields_read, parse_links, text
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
from transports.spans import RECORDER, TRACEPARENT

log = logging.getLogger("splitbench.cluster")

UNREACHABLE = (ConnectError, ConnectionLost, DeadlineExceeded, StaleEpoch, Draining)
"""Errors that may mean that the called server, or a server that it called in turn, has been replaced."""

FAILURE_NOTICE_TIMEOUT = 1.0
"""Seconds within which a client must accept the notice that its request failed, even if the request has more time."""


class Dispatcher:
    """Sends tensors, for all threads of a process. `directory` finds the servers that await them."""

    def __init__(self, transports: Mapping[str, Transport], registries: Mapping[str, Address], host: str = "") -> None:
        """`transports`: the transports by name. `registries`: the address of the registry on each transport. `host`:
        the name of this host, for emulated links."""
        self.traffic = Traffic()
        self._host = host
        self._relays: Mapping[str, Mapping[Address, Address]] = {}
        """Transport -> address -> the relay to that address. Filled by the first request over emulated links."""
        self.transports = transports
        self.directory = Directory(registries, self.call)
        self._pools: dict[tuple[str, str, str], Pool] = {}
        self._closed = False
        self._lock = threading.Lock()

    def send(
        self, request: Request, delivery: Delivery, carry: RequestStats | None = None
    ) -> tuple[Message, RequestStats]:
        """Send `delivery`; returns the server's answer and the statistics of sending.

        `carry`: statistics to attach to the message, in flows whose answers carry none. Raises a `WireError`, which
        names the server if it cannot be reached.
        """
        (epoch, address), tensors = delivery.holder, delivery.tensors
        fields = request.fields()
        fields["epoch"] = epoch
        sent, packs, packing = payload(tensors), request.route.wire != OFF, NO_STATS
        if packs:
            tensors, packing = self._packed(request, address, tensors, fields)
        if carry is not None:
            fields |= (carry + packing).fields()
        message = Message("infer", fields, tensors)
        if carry is not None:  # count before sending: the client may get its outputs before this call returns
            self.traffic.add(address, sent, 0)
        try:
            reply, made = self.call(request, address, message)
        except UNREACHABLE as error:
            self.directory.forget(delivery.holder)
            if error.remote or not isinstance(error, (ConnectError, ConnectionLost)):
                raise
            raise type(error)(f"server {delivery.server}: {error}") from error
        if packs:
            reply, unpacking = unpack(reply, request.route, self.transports, request.trace)
            packing += unpacking
        back = payload(reply.tensors)
        if carry is None:
            self.traffic.add(address, sent, back)
        stats = RequestStats(1, sent + back, 0, int(made))
        return reply, stats + packing if packs else stats

    def send_result(self, request: Request, outputs: Mapping[str, Array], stats: RequestStats) -> None:
        """Send model outputs and the statistics so far to the client's result receiver."""
        address, fields = Address.parse(request.reply_to), {"id": request.id} | request.context()
        tensors, packing = self._packed(request, address, outputs, fields, answer=True)
        self.traffic.add(address, payload(outputs), 0)  # count before the client has the outputs
        self.call(request, address, Message("result", fields | (stats + packing).fields(), tensors))

    def send_failure(self, request: Request, error: WireError) -> None:
        """Notify the client's result receiver that the request failed with `error`. If this fails too, log it."""
        fields = {"id": request.id, "kind": error.kind, "text": str(error)}
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

    def call(self, request: Request, address: Address, message: Message) -> tuple[Message, bool]:
        """The answer of the handler at `address`, and whether a connection was opened. Raises a `WireError`."""
        if (left := request.remaining) <= 0:
            raise DeadlineExceeded(f"request {request.id}: no time left to send {message.method!r} to {address}")
        route = request.route
        if route.linked:
            address = self._relay(route, left).get(address, address)
        call = self._pool(route).call
        if request.trace is None:
            return call(address, message, left)
        # The message carries the context of its span, unless it goes to the registry.
        own = str(message.fields.get(TRACEPARENT, ""))
        name = "call" if own else "lookup"
        return RECORDER.timed(request.trace, name, call, address, message, left, what=message.method, own=own)

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
            registry = self.directory.registry(route.transport)
            question = Message("links", {"host": self._host})
            reply, _ = self._pool(route).call(registry, question, timeout)
            with fields_read(f"the registry at {registry} answered 'links' with"):
                known = parse_links(text(reply.fields, "links"))
            self._relays = {**self._relays, route.transport: known}
        return known

    def _pool(self, route: Route) -> Pool:
        """The connection pool for `route`. Raises `MalformedMessage` if this process lacks its transport or codec."""
        key = (route.transport, route.connections, route.codec)
        if pool := self._pools.get(key):  # `close` replaces the dictionary
            return pool
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
