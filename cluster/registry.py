"""The registry: which servers hold which portion of the model, and where each tensor is awaited.

The protocol, over any transport (`Registry.handle`):

    register   transport.<name> = HOST:PORT, ..., [server], [epoch]   -> server, epoch, ttl
    report     epoch, partition, tensors (lines)                      -> ok
    renew      epoch                                                  -> ok
    leave      epoch                                                  -> ok
    where      partition, tensor, transport                           -> servers, ttl, replicas
    who        partition, transport                                   -> servers, ttl, replicas

`servers` is "0=EPOCH@HOST:PORT,... 3=...": of those who await a tensor, or of all. `replicas` is how many servers a
portion may have. `ttl` is how long a lease lasts, in seconds: so often a server has to renew it, and so long an address
may be relied on.

A tensor may be awaited by several portions, and a portion be held by several servers, so that an answer is always a
*list*. The registry holds addresses and names; no tensor passes through it and it loads no model. What it holds, its
servers can tell a new one (`cluster.lease_client`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.leases import Holder, Leases
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage

PREFIX = "transport."


class Registry:
    """`leases`, asked by messages."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._methods: Mapping[str, Callable[[Mapping[str, Scalar]], Message]] = {
            "register": self._register,
            "report": self._report,
            "renew": self._renew,
            "leave": self._leave,
            "where": self._where,
            "who": self._who,
        }

    def handle(self, message: Message) -> Message:
        """The handler that transports serve. Raises `MalformedMessage` for what is no question of the protocol."""
        if message.method not in self._methods:
            raise MalformedMessage(f"the registry has no method {message.method!r}: {', '.join(self._methods)}")
        try:
            return self._methods[message.method](message.fields)
        except (KeyError, ValueError) as error:
            raise MalformedMessage(f"{message.method!r}: {type(error).__name__}: {error}") from None

    def _register(self, fields: Mapping[str, Scalar]) -> Message:
        addresses = {
            key.removeprefix(PREFIX): Address.parse(str(value))
            for key, value in fields.items()
            if key.startswith(PREFIX)
        }
        claim = int(fields["server"]) if "server" in fields else None
        lease = self._leases.take(addresses, claim, int(fields.get("epoch", 0)))
        return Message("registered", {"server": lease.server, "epoch": lease.epoch, "ttl": self._leases.ttl})

    def _report(self, fields: Mapping[str, Scalar]) -> Message:
        self._leases.report(int(fields["epoch"]), str(fields["partition"]), str(fields["tensors"]).splitlines())
        return Message("ok")

    def _renew(self, fields: Mapping[str, Scalar]) -> Message:
        self._leases.renew(int(fields["epoch"]))
        return Message("ok")

    def _leave(self, fields: Mapping[str, Scalar]) -> Message:
        self._leases.leave(int(fields["epoch"]))
        return Message("ok")

    def _where(self, fields: Mapping[str, Scalar]) -> Message:
        found = self._leases.where(str(fields["partition"]), str(fields["tensor"]), str(fields["transport"]))
        return self._answer(found)

    def _who(self, fields: Mapping[str, Scalar]) -> Message:
        return self._answer(self._leases.who(str(fields["partition"]), str(fields["transport"])))

    def _answer(self, found: Mapping[int, tuple[Holder, ...]]) -> Message:
        lists = {server: ",".join(f"{epoch}@{address}" for epoch, address in held) for server, held in found.items()}
        servers = " ".join(f"{server}={held}" for server, held in lists.items())
        return Message("holders", {"servers": servers, "ttl": self._leases.ttl, "replicas": self._leases.replicas})


def parse_holders(text: str) -> dict[int, tuple[Holder, ...]]:
    """`"0=7@127.0.0.1:7000,9@127.0.0.1:7009 3=8@127.0.0.1:7003"` -> portion to its holders."""
    pairs = (item.partition("=") for item in text.split())
    return {int(server): tuple(map(_parse_holder, held.split(","))) for server, _, held in pairs}


def _parse_holder(text: str) -> Holder:
    epoch, _, address = text.partition("@")
    return Holder(int(epoch), Address.parse(address))
