"""Receives the model's outputs in the flow `forward`, in which no call returns them: the client serves an address."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from cluster.packing import unpack
from cluster.request import NO_STATS, Request, RequestStats
from transports.address import Address
from transports.base import Array, Message, Server, Transport
from transports.errors import ConnectError, DeadlineExceeded, MalformedMessage, WireError, from_kind
from transports.spans import RECORDER, context_of

WORKERS = 16
"""Most results received at a time; each is only stored."""


@dataclass
class PendingResult:
    """The outputs for which a client waits. `request.reply_to` is the address to which servers send them."""

    request: Request
    names: Sequence[str]
    found: dict[str, Array] = field(default_factory=dict)
    stats: RequestStats = NO_STATS
    error: WireError | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def outputs(self) -> tuple[Mapping[str, Array], RequestStats]:
        """Wait for all outputs; returns them with the request's statistics.

        Raises the error that a server reported, or `DeadlineExceeded`.
        """
        if self.request.trace is None:
            return self._outputs()
        return RECORDER.timed(self.request.trace, "await", self._outputs)

    def _outputs(self) -> tuple[Mapping[str, Array], RequestStats]:
        with self.changed:
            if not self.changed.wait_for(lambda: self.error or not self._missing(), max(0.0, self.request.remaining)):
                missing = ", ".join(self._missing())
                raise DeadlineExceeded(f"request {self.request.id}: no answer with {missing} in time")
            if self.error:
                raise self.error
            return self.found, self.stats

    def take(self, message: Message, unpacking: RequestStats) -> None:
        """Store the outputs or the error in `message`, and the statistics `unpacking`. Raises `MalformedMessage`."""
        stats = NO_STATS if message.method == "failed" else RequestStats.of(message)
        with self.changed:
            if message.method == "failed":
                self.error = from_kind(str(message.fields.get("kind")), str(message.fields.get("text")))
            else:
                self.found.update(message.tensors)
                self.stats += stats + RequestStats(messages=1, payload=message.payload) + unpacking
            self.changed.notify_all()

    def _missing(self) -> list[str]:
        return [name for name in self.names if name not in self.found]


class ResultReceiver:
    """Receives results on each transport; starts to serve on it at the first request that expects results over it."""

    def __init__(self, transports: Mapping[str, Transport], host: str = "127.0.0.1") -> None:
        self._transports = transports
        self._host = host
        self._servers: dict[str, Server] = {}
        self._pending: dict[str, PendingResult] = {}
        self._closed = False
        self._lock = threading.Lock()

    def address(self, transport: str) -> Address:
        """The address that receives results over `transport`. Raises `ConnectError`."""
        return self._server(transport).address

    @contextlib.contextmanager
    def expect(self, request: Request, names: Sequence[str]) -> Iterator[PendingResult]:
        """Expect the tensors `names` of `request`. Results that arrive after the block are dropped.

        Raises `ConnectError` if the receiver is closed, or cannot serve on the transport of the request.
        """
        pending = PendingResult(replace(request, reply_to=str(self.address(request.route.transport))), names)
        with self._lock:
            self._pending[request.id] = pending
        try:
            yield pending
        finally:
            with self._lock:
                del self._pending[request.id]

    def handle(self, message: Message) -> Message:
        """The handler that transports serve. Raises `MalformedMessage`."""
        if message.method not in ("result", "failed"):
            raise MalformedMessage(f"a client has no method {message.method!r}: it has 'result' and 'failed'")
        if (context := context_of(message.fields)) is None:
            self._store(message)
        else:
            RECORDER.timed(context, "handle", self._store, message)
        return Message("ok")

    def _store(self, message: Message) -> None:
        with self._lock:
            pending = self._pending.get(str(message.fields.get("id")))
        if pending:
            pending.take(*unpack(message, pending.request.route, self._transports, pending.request.trace))

    def close(self) -> None:
        """Stop serving; no request can expect results afterwards."""
        with self._lock:
            self._closed = True
            servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()

    def _server(self, transport: str) -> Server:
        with self._lock:
            if self._closed:
                raise ConnectError("the result receiver is closed")
            if transport not in self._servers:
                self._servers[transport] = self._transports[transport].serve(self.handle, self._host, 0, WORKERS)
            return self._servers[transport]
