"""Where the model's outputs come in when no call returns them: an address of the client's own, on each transport."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from cluster.request import Request, RequestStats
from transports.base import Array, Message, Server, Transport
from transports.errors import DeadlineExceeded, MalformedMessage, WireError, from_kind

WORKERS = 16
"""Results that may come in at a time: each is only put away."""


@dataclass
class PendingResult:
    """What a client waits for. `request` has the address to which results go."""

    request: Request
    names: Sequence[str]
    found: dict[str, Array] = field(default_factory=dict)
    cost: RequestStats = field(default_factory=RequestStats)
    error: WireError | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def outputs(self) -> tuple[Mapping[str, Array], RequestStats]:
        """The outputs once all are there, and what they cost. Raises what a server reported, or `DeadlineExceeded`."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.error or self._missing() == [], max(0.0, self.request.remaining)):
                raise DeadlineExceeded(
                    f"request {self.request.id}: no answer with {', '.join(self._missing())} in time"
                )
            if self.error:
                raise self.error
            return self.found, self.cost

    def take(self, message: Message) -> None:
        """Put away what `message` brings: outputs, or why there will be none."""
        with self.changed:
            if message.method == "failed":
                self.error = from_kind(str(message.fields.get("kind")), str(message.fields.get("text")))
            else:
                self.found.update(message.tensors)
                self.cost += RequestStats.of(message) + RequestStats(messages=1, payload=message.payload)
            self.changed.notify_all()

    def _missing(self) -> list[str]:
        return [name for name in self.names if name not in self.found]


class ResultReceiver:
    """Serves on a transport from the first request on that expects something there."""

    def __init__(self, transports: Mapping[str, Transport], host: str = "127.0.0.1") -> None:
        self._transports = transports
        self._host = host
        self._servers: dict[str, Server] = {}
        self._awaited: dict[str, PendingResult] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def expect(self, request: Request, names: Sequence[str]) -> Iterator[PendingResult]:
        """Wait for the tensors `names` of `request`; what comes when nobody waits any more is let go."""
        awaited = PendingResult(replace(request, reply_to=str(self._server(request.route.transport).address)), names)
        with self._lock:
            self._awaited[request.id] = awaited
        try:
            yield awaited
        finally:
            with self._lock:
                del self._awaited[request.id]

    def handle(self, message: Message) -> Message:
        """The handler that transports serve."""
        if message.method not in ("result", "failed"):
            raise MalformedMessage(f"a client has no method {message.method!r}: it has 'result' and 'failed'")
        with self._lock:
            awaited = self._awaited.get(str(message.fields.get("request")))
        if awaited:
            awaited.take(message)
        return Message("ok")

    def close(self) -> None:
        """Stop serving."""
        with self._lock:
            servers, self._servers = self._servers, {}
        for server in servers.values():
            server.close()

    def _server(self, transport: str) -> Server:
        with self._lock:
            if transport not in self._servers:
                self._servers[transport] = self._transports[transport].serve(self.handle, self._host, 0, WORKERS)
            return self._servers[transport]
