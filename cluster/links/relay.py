"""Emulates the network between two hosts: relays TCP connections with a link's bandwidth, delay and jitter.

It needs no privileges, and one thread does all the work. It models neither packet loss nor TCP's congestion control: a
connection has at once the whole bandwidth that other connections in its direction do not use.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from cluster.links.connection import Connection, Target
from cluster.links.kernel import wire_bytes
from cluster.links.link import Link
from cluster.links.loop import READ, Loop
from cluster.links.schedule import Schedule
from cluster.links.stream import Direction
from transports.address import Address
from transports.errors import UsageError

PATIENCE = 5.0
"""Seconds within which the loop has to carry out an order."""
WAITING = 1024
"""Most connections that wait for the relay to accept them."""


class Relay:
    """Relays connections between two hosts. A direction without a link passes everything on at once.

        with Relay({("edge", "cloud"): link, ("cloud", "edge"): link}, seed=1) as relay:
            address = relay.reach("edge", server)  # connect to it where `edge` would connect to `server`

    Within a `with` a thread runs the loop; a process of its own calls `serve` instead. `reach`, `close` and the
    counters may be used in any thread, at any time.
    """

    def __init__(self, links: Mapping[tuple[str, str], Link], seed: int) -> None:
        """`links`: (source, target) -> the link of that direction. `seed` is that of the jitter.

        Raises `UsageError` if these are not the directions of one pair of hosts.
        """
        hosts = sorted({host for direction in links for host in direction})
        if len(hosts) != 2 or any(source == target for source, target in links):
            raise UsageError(f"a relay serves the links of two hosts, not of {len(hosts)}: {', '.join(hosts)}")
        self._loop = Loop()
        self._seed = seed
        self._targets = {hosts[0]: hosts[1], hosts[1]: hosts[0]}
        self._directions = {source: Direction(self._loop, self._schedule(source, links)) for source in hosts}
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()  # a signal handler may call `close` in the midst of another method
        """Guards the attributes below."""
        self._listeners: list[socket.socket] = []
        self._connections: set[Connection] = set()
        self._closed_bytes: int | None = 0
        """Interface bytes of the closed connections; None if the kernel did not tell them."""
        self._serving = self._closed = False

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reach(self, source: str, address: Address, bind: str = "127.0.0.1") -> Address:
        """The address at which processes on host `source` reach the server at `address` on the other host, from now on.

        `bind` is the interface on which the relay listens for them, and the host of the result. Raises `UsageError` for
        an unknown host, for names and interfaces that this machine does not know, and after `close`.
        """
        if source not in self._directions:
            raise UsageError(f"the relay knows no host {source!r}; valid: {', '.join(self._directions)}")
        try:
            family, *_, resolved = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)[0]
            listener = socket.create_server(
                (bind, 0), family=socket.AF_INET6 if ":" in bind else socket.AF_INET, backlog=WAITING
            )
        except OSError as error:
            reason = f"cannot relay from {bind} to {address}: {error}"
            raise UsageError(f"{reason}; give an interface of this machine and a host that it can resolve") from None
        listener.setblocking(False)
        with self._lock:
            if self._closed:
                listener.close()
                raise UsageError(f"the relay from {source} is closed: reach {address} before that")
            self._listeners.append(listener)
        host, port = listener.getsockname()[:2]
        target = Target(family, resolved)
        self._loop.soon(lambda: self._loop.watch(listener, {READ: lambda: self._accept(listener, source, target)}))
        return Address(host, port)

    def shape(self, links: Mapping[tuple[str, str], Link]) -> None:
        """Impose `links` (see the constructor) on all data that arrives from now on. Returns when they are in force.

        The loop must run. Raises `UsageError` if it does not.
        """
        done = threading.Event()

        def impose() -> None:
            for source, direction in self._directions.items():
                schedule = self._schedule(source, links)
                schedule.follow(direction.schedule)
                direction.schedule = schedule
            done.set()

        self._loop.soon(impose)
        if not done.wait(PATIENCE):
            raise UsageError("the relay does not run")

    def start(self) -> None:
        """Run the loop in a thread."""
        self._thread = threading.Thread(target=self.serve, name="relay", daemon=True)
        self._thread.start()

    def serve(self) -> None:
        """Run the loop in this thread, until `close`. All connections end with it."""
        with self._lock:
            if self._closed:
                return
            self._serving = True
        try:
            self._loop.run()
        finally:
            self._free()

    def close(self) -> None:
        """End the relay: reset its connections, and stop listening. Signal handlers may call it."""
        self._loop.stop()
        if self._thread:
            self._thread.join()
        elif not self._serving:
            self._free()

    def carried(self, source: str) -> int:
        """Payload bytes from host `source` that were delivered or are on their way.

        Raises `KeyError` for another host.
        """
        return self._directions[source].carried

    def repeated_bytes(self) -> int:
        """Bytes with all headers that crossed an interface between the relay and the servers, in both directions.

        An interface counts these bytes a second time, so a measurement of the loopback interface's bytes must subtract
        them. If the kernel does not tell the bytes of a connection, the result is the payload of all connections.
        """
        with self._lock:
            counts = [wire_bytes(connection.far) for connection in self._connections]
            total = _sum([*counts, self._closed_bytes])
        return sum(direction.carried for direction in self._directions.values()) if total is None else total

    def _schedule(self, source: str, links: Mapping[tuple[str, str], Link]) -> Schedule:
        """The schedule of the direction from `source`; unlimited without a link. Seed and direction fix the jitter."""
        target = self._targets[source]
        link = links.get((source, target), Link(source, target, both=False))
        return Schedule(link, f"{self._seed} {source}->{target}")

    def _accept(self, listener: socket.socket, source: str, target: Target) -> None:
        try:
            near, _ = listener.accept()
        except OSError:  # the caller has gone
            return
        there = self._directions[source]
        back = next(direction for direction in self._directions.values() if direction is not there)
        try:
            connection = Connection(self._loop, near, target, (there, back), self._forget)
        except OSError:  # no descriptor is left
            near.close()
            return
        with self._lock:
            self._connections.add(connection)

    def _forget(self, connection: Connection) -> None:
        """Add the byte count of a connection, which is about to be closed, to the total."""
        with self._lock:
            self._connections.discard(connection)
            self._closed_bytes = _sum([self._closed_bytes, wire_bytes(connection.far)])

    def _free(self) -> None:
        with self._lock:
            self._closed = True
            connections, listeners = list(self._connections), self._listeners
        for connection in connections:
            connection.close(hard=True)
        for listener in listeners:
            listener.close()
        self._loop.close()


def _sum(counts: list[int | None]) -> int | None:
    """The sum of `counts`; None if one of them is unknown."""
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None
