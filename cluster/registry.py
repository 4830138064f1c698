"""The registry: which server holds which portion of the model, and where each tensor is awaited.

The protocol, over any transport (`Registry.handle`):

    register   transport.<name> = HOST:PORT, ...          -> server = its portion's index
    report     server, partition, tensors (lines)         -> ok
    where      partition, tensor, transport               -> servers = "0=HOST:PORT 3=HOST:PORT"

A tensor may be awaited by several servers, so that an answer is always a *list*. The registry holds addresses and
names; no tensor passes through it and it loads no model.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from cluster.errors import NoPortion
from transports.base import Address, Message
from transports.errors import MalformedMessage

__all__ = ["Registry", "parse_servers"]

PREFIX = "transport."


class Registry:
    """Portions `0 .. servers - 1`, each given to one server."""

    def __init__(self, servers: int) -> None:
        self._servers = servers
        self._addresses: dict[int, dict[str, Address]] = {}
        self._awaiting: dict[tuple[str, str], dict[int, None]] = {}
        self._lock = threading.Lock()
        self._methods: Mapping[str, Callable[[Message], Message]] = {
            "register": self._on_register,
            "report": self._on_report,
            "where": self._on_where,
        }

    def register(self, addresses: Mapping[str, Address]) -> int:
        """Give the server at `addresses` (one for each transport) the first free portion; its index."""
        with self._lock:
            free = next((index for index in range(self._servers) if index not in self._addresses), None)
            if free is None:
                raise NoPortion(f"all {self._servers} portions of the model are taken")
            self._addresses[free] = dict(addresses)
            return free

    def report(self, server: int, partition: str, tensors: list[str]) -> None:
        """Record that `server` awaits `tensors`."""
        with self._lock:
            if server not in self._addresses:
                raise NoPortion(f"server {server} reports its inputs but holds no portion: it has to register first")
            for tensor in tensors:
                self._awaiting.setdefault((partition, tensor), {})[server] = None

    def where(self, partition: str, tensor: str, transport: str) -> dict[int, Address]:
        """Every server that awaits `tensor`, with its address on `transport`; empty where nobody does."""
        with self._lock:
            servers = sorted(self._awaiting.get((partition, tensor), ()))
            return {
                server: self._addresses[server][transport]
                for server in servers
                if transport in self._addresses.get(server, {})
            }

    def handle(self, message: Message) -> Message:
        """The handler that transports serve."""
        if message.method not in self._methods:
            raise MalformedMessage(f"the registry has no method {message.method!r}: {', '.join(self._methods)}")
        return self._methods[message.method](message)

    def _on_register(self, message: Message) -> Message:
        addresses = {
            key.removeprefix(PREFIX): Address.parse(str(value))
            for key, value in message.fields.items()
            if key.startswith(PREFIX)
        }
        return Message("registered", {"server": self.register(addresses)})

    def _on_report(self, message: Message) -> Message:
        fields = message.fields
        self.report(int(fields["server"]), str(fields["partition"]), str(fields["tensors"]).splitlines())
        return Message("ok")

    def _on_where(self, message: Message) -> Message:
        fields = message.fields
        found = self.where(str(fields["partition"]), str(fields["tensor"]), str(fields["transport"]))
        return Message("awaited", {"servers": " ".join(f"{server}={address}" for server, address in found.items())})


def parse_servers(text: str) -> dict[int, Address]:
    """`"0=127.0.0.1:7000 3=127.0.0.1:7003"` -> `{0: Address, 3: Address}`."""
    pairs = (item.partition("=") for item in text.split())
    return {int(server): Address.parse(address) for server, _, address in pairs}
