"""The registry: which nodes hold which portion of the model, and which tensors they await.

The protocol, over any transport (`Registry.handle`):

    register   transport.<name> = HOST:PORT, ..., [server], [epoch]   -> server, epoch, ttl
    report     epoch, partition, tensors (lines)                      -> ok
    renew      epoch                                                  -> ok
    leave      epoch                                                  -> ok
    where      partition, tensor, transport                           -> servers, ttl, replicas
    who        partition, transport                                   -> servers, ttl, replicas
    link       host, address, relay                                   -> ok
    links      host                                                   -> links

`servers` is "0=EPOCH@HOST:PORT,... 3=...": for each portion, the nodes that await the tensor (`where`), or the nodes
that are ready for the partition (`who`). `replicas` is the number of nodes that may hold one portion. `ttl` is the
duration of a lease in seconds: nodes renew their leases within that time, and clients may cache answers for that long.

`links` is "HOST:PORT=HOST:PORT ...": pairs of an address that processes on a host reach through a relay, and the
address of that relay. A relay emulates the link between two hosts (`cluster.links`).

Several portions may await one tensor, and several nodes may hold one portion, so an answer is always a *list*. The
registry stores addresses and names alone; no tensor passes through it. When a registry has been restarted, nodes
register again (`cluster.lease_client`).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from cluster.leases import Holder, Leases
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage

PREFIX = "transport."
SEPARATORS = frozenset(" ,=@\t\r\n")
"""Characters that a host name must not contain, since they separate the parts of `servers`."""


class Registry:
    """Answers the messages of the protocol from `leases`."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._links: dict[str, dict[str, str]] = {}
        """Host -> address -> the relay through which processes on the host reach that address."""

    def handle(self, message: Message) -> Message:
        """The handler that transports serve. Raises `MalformedMessage` for an unknown method or unusable fields."""
        fields = message.fields
        with fields_read(f"{message.method!r} has"):
            match message.method:
                case "register":
                    return self._register(fields)
                case "report":
                    tensors = text(fields, "tensors").splitlines()
                    self._leases.report(whole(fields, "epoch"), text(fields, "partition"), tensors)
                case "renew":
                    self._leases.renew(whole(fields, "epoch"))
                case "leave":
                    self._leases.leave(whole(fields, "epoch"))
                case "where":
                    partition, tensor, transport = (text(fields, name) for name in ("partition", "tensor", "transport"))
                    return self._answer(self._leases.where(partition, tensor, transport))
                case "who":
                    return self._answer(self._leases.who(text(fields, "partition"), text(fields, "transport")))
                case "link":
                    relays = self._links.setdefault(text(fields, "host"), {})
                    relays[str(_address(text(fields, "address")))] = str(_address(text(fields, "relay")))
                case "links":
                    relays = self._links.get(text(fields, "host"), {})
                    return Message("linked", {"links": " ".join(f"{near}={far}" for near, far in relays.items())})
                case other:
                    valid = "register, report, renew, leave, where, who, link, links"
                    raise MalformedMessage(f"the registry has no method {other!r}; valid: {valid}")
        return Message("ok")

    def _register(self, fields: Mapping[str, Scalar]) -> Message:
        addresses = {key.removeprefix(PREFIX): _address(text(fields, key)) for key in fields if key.startswith(PREFIX)}
        if not addresses:
            raise ValueError(f"no field {PREFIX}NAME gives an address")
        claim = whole(fields, "server") if "server" in fields else None
        lease = self._leases.take(addresses, claim, whole(fields, "epoch") if "epoch" in fields else 0)
        return Message("registered", {"server": lease.server, "epoch": lease.epoch, "ttl": self._leases.ttl})

    def _answer(self, found: Mapping[int, tuple[Holder, ...]]) -> Message:
        lists = {server: ",".join(f"{epoch}@{address}" for epoch, address in held) for server, held in found.items()}
        servers = " ".join(f"{server}={held}" for server, held in lists.items())
        return Message("holders", {"servers": servers, "ttl": self._leases.ttl, "replicas": self._leases.replicas})


def parse_holders(servers: str) -> dict[int, tuple[Holder, ...]]:
    """`"0=7@127.0.0.1:7000,9@127.0.0.1:7009 3=8@127.0.0.1:7003"` -> the holders by portion.

    Raises `MalformedMessage`.
    """
    try:
        pairs = (item.partition("=") for item in servers.split())
        return {int(server): tuple(map(_parse_holder, held.split(","))) for server, _, held in pairs}
    except ValueError as error:
        raise MalformedMessage(f"the registry's list of servers: {error}") from None


def parse_links(links: str) -> dict[Address, Address]:
    """`"10.0.0.2:7000=127.0.0.1:9000 ..."` -> the relay for each address. Raises `MalformedMessage`."""
    try:
        pairs = (item.partition("=") for item in links.split())
        return {_address(address): _address(relay) for address, _, relay in pairs}
    except ValueError as error:
        raise MalformedMessage(f"the registry's list of links: {error}") from None


def _parse_holder(holder: str) -> Holder:
    epoch, _, address = holder.partition("@")
    return Holder(int(epoch), _address(address))


@contextlib.contextmanager
def fields_read(where: str) -> Iterator[None]:
    """Raise `MalformedMessage`, whose text begins with `where`, if the block finds a field missing or unusable."""
    try:
        yield
    except (KeyError, ValueError) as error:
        raise MalformedMessage(f"{where} {type(error).__name__}: {error}") from None


def whole(fields: Mapping[str, Scalar], name: str) -> int:
    """The field `name`, a whole number of at least 0. Raises `KeyError` and `ValueError`."""
    value = fields[name]
    if type(value) is not int or value < 0:
        raise ValueError(f"{name}: {str(value)[:100]!r} is no whole number from 0 on")
    return value


def positive(fields: Mapping[str, Scalar], name: str) -> float:
    """The field `name`, a number above 0, infinity included. Raises `KeyError` and `ValueError`."""
    value = fields[name]
    if not isinstance(value, (int, float)) or isinstance(value, bool) or math.isnan(value) or value <= 0:
        raise ValueError(f"{name}: {str(value)[:100]!r} is no number above 0")
    return float(value)


def text(fields: Mapping[str, Scalar], name: str) -> str:
    """The field `name`, a text. Raises `KeyError` and `ValueError`."""
    value = fields[name]
    if not isinstance(value, str):
        raise ValueError(f"{name}: {str(value)[:100]!r} is no text")
    return value


def _address(text: str) -> Address:
    """`text` as an address to connect to. Raises `ValueError` for port 0 and for a host that has a separator."""
    found = Address.parse(text)
    if not found.port or SEPARATORS.intersection(found.host):
        raise ValueError(f"{text[:100]!r} is no address to connect to")
    return found
