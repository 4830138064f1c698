"""Connections by address: kept and reused (`pooled`), or opened for every message (`per-hop`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import msgspec

from transports.address import Address
from transports.base import Connection, Message, Transport
from transports.errors import ConnectError, UsageError, suggest
from transports.spans import RECORDER, context_of

MODES = ("pooled", "per-hop")
"""What a pool does with a connection after a call: keep it for the next call, or close it."""

IDLE = 60.0
"""Seconds without use after which the pool closes a connection. It looks for such connections when it opens one."""


class Idle(msgspec.Struct, frozen=True):
    """An idle connection, and the moment (`time.monotonic()`) of its last use."""

    connection: Connection
    since: float


class Pool:
    """Hands out the connections of one transport. Any number of threads may use it.

    The pool never repeats a call that failed, since its handler may have run. If a connection fails during a call, the
    pool closes every idle connection to the same address, since a peer that closed one has closed them all. It
    closes a connection whose peer has gone instead of handing it out.
    """

    def __init__(self, transport: Transport, mode: str = "pooled", codec: str = "") -> None:
        """Raises `UsageError` for an unknown mode, or a codec that `transport` does not have."""
        if mode not in MODES:
            raise UsageError(f"no mode {mode!r}{suggest(mode, MODES)}")
        self.transport = transport
        self.mode = mode
        self.codec = transport.check_codec(codec)
        self._lock = threading.Lock()
        self._idle: dict[Address, list[Idle]] = {}
        self._made = 0
        self._closed = False

    @property
    def made(self) -> int:
        """Number of connections opened so far, without connections that share the link of another one."""
        return self._made

    def call(self, address: Address, message: Message, timeout: float) -> tuple[Message, bool]:
        """The answer of `address` to `message`, and whether a connection was opened for this call.

        Takes at most `timeout` seconds, connecting included. Raises a `WireError`.
        """
        deadline = time.monotonic() + timeout
        kept = self._take(address)
        connection = kept or self._make_for(message, address, timeout)
        try:
            answer = connection.call(message, max(0.001, deadline - time.monotonic()))
        finally:
            self._give_back(address, connection)
        return answer, kept is None and connection.fresh

    @contextmanager
    def connection(self, address: Address, timeout: float = 10.0) -> Iterator[tuple[Connection, bool]]:
        """A connection to `address` for this thread alone, and whether it is new. Raises `ConnectError`."""
        kept = self._take(address)
        connection = kept or self._make(address, timeout)
        try:
            yield connection, kept is None and connection.fresh
        finally:
            self._give_back(address, connection)

    def close(self) -> None:
        """Close every idle connection. Connections in use are closed after their calls. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, {}
        _close_all(kept.connection for rest in idle.values() for kept in rest)

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _take(self, address: Address) -> Connection | None:
        """Remove and return the idle connection to `address` that was used last; closes those whose peer has gone."""
        while True:
            with self._lock:
                if self._closed:
                    raise ConnectError(f"no connection to {address}: the pool is closed")
                if not (rest := self._idle.get(address)):
                    return None
                kept = rest.pop().connection
            if not kept.stale():
                return kept
            kept.close()

    def _make(self, address: Address, timeout: float) -> Connection:
        self._sweep()
        connection = self.transport.connect(address, self.codec, timeout, shared=self.mode == "pooled")
        with self._lock:
            self._made += connection.fresh
        return connection

    def _make_for(self, message: Message, address: Address, timeout: float) -> Connection:
        """`_make`, recorded as a span if `message` is traced."""
        if (context := context_of(message.fields)) is None:
            return self._make(address, timeout)
        return RECORDER.timed(context, "connect", self._make, address, timeout)

    def _sweep(self) -> None:
        """Close the idle connections, to any address, that are stale or too old."""
        latest = time.monotonic() - IDLE
        with self._lock:
            kept = [(address, idle) for address, rest in self._idle.items() for idle in rest]
            gone = [(address, idle) for address, idle in kept if idle.since < latest or idle.connection.stale()]
            for address, idle in gone:
                self._idle[address].remove(idle)
            self._idle = {address: rest for address, rest in self._idle.items() if rest}
        _close_all(idle.connection for _, idle in gone)

    def _give_back(self, address: Address, connection: Connection) -> None:
        with self._lock:
            if self.mode == "pooled" and not self._closed and not connection.closed:
                self._idle.setdefault(address, []).append(Idle(connection, time.monotonic()))
                return
            drop = [idle.connection for idle in self._idle.pop(address, [])] if connection.closed else []
        _close_all([connection, *drop])


def _close_all(connections: Iterable[Connection]) -> None:
    for connection in connections:
        connection.close()
