"""Connections by address: kept and reused (`pooled`), or made anew for every message (`per-hop`)."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from transports.base import Address, Connection, Message, Transport
from transports.errors import ConnectError, UsageError, suggest

__all__ = ["MODES", "Pool"]

MODES = ("pooled", "per-hop")
"""What a pool does with a connection after its call: keep it for the next one, or close it."""


class Pool:
    """Hands out the connections of one transport. Any number of threads may use it.

    A call is sent once: when it is lost, nobody can tell whether its handler ran, so it is not repeated here. What is
    dropped with it is every idle connection to that address, since the peer that closed one has closed them all.
    """

    def __init__(self, transport: Transport, mode: str = "pooled", codec: str = "") -> None:
        """Raises `UsageError` for a mode that is none, or a codec that `transport` does not have."""
        if mode not in MODES:
            raise UsageError(f"no mode {mode!r}{suggest(mode, MODES)}")
        self.transport = transport
        self.mode = mode
        self.codec = transport.check_codec(codec)
        self._lock = threading.Lock()
        self._idle: dict[Address, list[Connection]] = defaultdict(list)
        self._made = 0
        self._closed = False

    @property
    def made(self) -> int:
        """Connections made so far."""
        return self._made

    def call(self, address: Address, message: Message, timeout: float) -> tuple[Message, bool]:
        """The answer of `address` to `message`, and whether a connection was made for it.

        Connecting included, it takes at most `timeout` seconds. Raises a `WireError`.
        """
        deadline = time.monotonic() + timeout
        with self.connection(address, timeout) as (connection, made):
            return connection.call(message, max(0.001, deadline - time.monotonic())), made

    @contextmanager
    def connection(self, address: Address, timeout: float = 10.0) -> Iterator[tuple[Connection, bool]]:
        """A connection to `address` for this thread alone, and whether it is new. Raises `ConnectError`."""
        kept = self._take(address)
        connection = kept or self._make(address, timeout)
        try:
            yield connection, kept is None
        finally:
            self._give_back(address, connection)

    def close(self) -> None:
        """Close every idle connection; one that is in use is closed when it is given back. Idempotent."""
        with self._lock:
            self._closed = True
            idle = [connection for connections in self._idle.values() for connection in connections]
            self._idle.clear()
        _close_all(idle)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take(self, address: Address) -> Connection | None:
        with self._lock:
            if self._closed:
                raise ConnectError(f"no connection to {address}: the pool is closed")
            return self._idle[address].pop() if self._idle[address] else None

    def _make(self, address: Address, timeout: float) -> Connection:
        connection = self.transport.connect(address, self.codec, timeout)
        with self._lock:
            self._made += 1
        return connection

    def _give_back(self, address: Address, connection: Connection) -> None:
        with self._lock:
            keep = self.mode == "pooled" and not self._closed and not connection.closed
            drop = self._idle.pop(address, []) if connection.closed else []
            if keep:
                self._idle[address].append(connection)
        _close_all(drop if keep else [connection, *drop])


def _close_all(connections: list[Connection]) -> None:
    for connection in connections:
        connection.close()
