"""The emulated links of an experiment: a relay process for each pair of hosts that has a link in at least one cell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import Self

import transports
from cluster.config import RelayConfig
from cluster.launchers.base import Launcher, Order
from cluster.links.control import TRANSPORT
from cluster.links.link import Link
from cluster.machines import Machines
from cluster.registry import fields_read, text, whole
from transports.address import Address
from transports.base import Connection, Message

PATIENCE = 10.0
"""Seconds within which a relay has to answer."""
Directions = Mapping[tuple[str, str], Link]
"""(name of the source host, name of the target host) -> the link."""


class EmulatedLinks:
    """The relays. A context manager; enter it before the processes start to which the relays lead.

    `pairs`: the pairs of host names that have a link in at least one cell. `here`: the name of this machine in links.
    """

    def __init__(self, machines: Machines, pairs: Iterable[frozenset[str]], here: str, seed: int) -> None:
        self.here = here
        self._machines = machines
        self._pairs = {f"relay-{number}": pair for number, pair in enumerate(sorted(pairs, key=sorted))}
        self._seed = seed
        self._shaped: dict[str, str] = {}
        self._connections: dict[str, Connection] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        machines = self._machines
        with self._stack as undo:
            if self._pairs:
                launcher = self._launcher
                undo.callback(lambda: launcher.stop(list(self._pairs)))
                own = transports.make(TRANSPORT, machines.options([TRANSPORT]))
                for name in self._pairs:
                    launcher.start(self._order(name))
                for name in self._pairs:
                    address = launcher.addresses(name)[TRANSPORT]
                    self._connections[name] = undo.enter_context(own.connect(address))
            self._stack = undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def sources(self, target: str) -> list[str]:
        """The hosts that have an emulated link with `target`."""
        return [host for pair in self._pairs.values() if target in pair for host in pair - {target}]

    def reach(self, source: str, target: str, address: Address) -> Address:
        """The address at which host `source` reaches the server at `address` on host `target`. Raises a `WireError`."""
        name = next(name for name, pair in self._pairs.items() if pair == {source, target})
        reply = self._ask(name, Message("reach", {"host": source, "address": str(address)}))
        with fields_read(f"{name} answered 'reach' with"):
            return Address.parse(text(reply.fields, "address"))

    def shape(self, links: Directions) -> None:
        """Impose `links` from now on. Returns when the relays have applied them. Raises a `WireError`."""
        for name, pair in self._pairs.items():
            lines = "\n".join(str(link) for ends, link in links.items() if pair == set(ends))
            if self._shaped.get(name) != lines:
                self._ask(name, Message("shape", {"links": lines}))
                self._shaped[name] = lines

    def repeated(self) -> int:
        """Bytes that an interface counted a second time, because they were relayed. Raises a `WireError`."""
        total = 0
        for name in self._pairs:
            reply = self._ask(name, Message("repeated"))
            with fields_read(f"{name} answered 'repeated' with"):
                total += whole(reply.fields, "bytes")
        return total

    @property
    def _launcher(self) -> Launcher:
        assert self._machines.launcher is not None
        return self._machines.launcher

    def _ask(self, name: str, question: Message) -> Message:
        return self._connections[name].call(question, PATIENCE)

    def _order(self, name: str) -> Order:
        """The order for a relay on a host of its pair. One of the two may be this machine, unknown to the launcher."""
        pair = sorted(self._pairs[name])
        host = next(host for host in self._machines.hosts if host.name in pair)
        config = RelayConfig(
            bind=host.bind or host.address,
            advertise=host.address,
            transports=(TRANSPORT,),
            options=self._machines.identity.installed(self._launcher, host.name, [TRANSPORT]),
            insecure=self._machines.settings.insecure,
            hosts=(pair[0], pair[1]),
            seed=self._seed,
        )
        return Order(name, config, host=host.name, title=f"relay between {' and '.join(pair)}")
