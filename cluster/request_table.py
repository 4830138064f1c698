"""The requests in flight at a server: their messages, waiting inputs and statistics, under one lock.

Rules:
  - A request is in flight while one of its messages is handled or queued, and while a stage waits for an input.
  - At its deadline its waiting inputs are dropped, so that a join that lacks an input for good holds no memory.
    Deadlines are in one heap: an expired request costs O(log n) once, and no message sweeps the table.
  - Once the server drains, only messages of requests in flight are accepted.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from cluster.errors import Draining
from cluster.pending import PendingInputs, Ready
from cluster.request import NO_STATS, Request, RequestStats
from cluster.segments import Segments

SLACK = 1024
"""The heap may hold so many deadlines of requests that have left, or one per request in flight if that is more."""


class _InFlight(msgspec.Struct):
    deadline: float
    messages: int = 0
    """Messages that are being handled or queued."""
    pending: dict[object, PendingInputs] = msgspec.field(default_factory=dict)
    """Shard -> its waiting inputs."""
    stats: RequestStats = NO_STATS
    """Statistics to attach to the next outgoing message (flow `forward`)."""


class RequestTable:
    """The requests in flight, by id. Thread-safe."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, _InFlight] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._draining = False
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def __len__(self) -> int:
        with self._lock:
            self._evict()
            return len(self._requests)

    def __contains__(self, request: str) -> bool:
        with self._lock:
            self._evict()
            return request in self._requests

    def enter(self, request: Request) -> None:
        """Count a message of `request`. Raises `Draining` if the server drains and the request is not in flight."""
        with self._lock:
            if len(deadlines := self._deadlines) > SLACK or (deadlines and deadlines[0][0] < self._clock()):
                self._evict()
            entry = self._requests.get(request.id)
            if self._draining and not (entry and (entry.messages or entry.pending)):
                raise Draining("this server is shutting down and accepts no new request")
            if entry is None:
                entry = self._requests[request.id] = _InFlight(request.deadline)
                heapq.heappush(self._deadlines, (request.deadline, request.id))
            entry.messages += 1

    def leave(self, request: Request) -> None:
        """Count one message fewer. A request without messages leaves the table, unless one of its inputs waits."""
        with self._lock:
            entry = self._requests[request.id]
            entry.messages -= 1
            kept = entry.messages or ((entry.pending or entry.stats != NO_STATS) and entry.deadline >= self._clock())
            if not kept:
                del self._requests[request.id]
            if self._draining:
                self._changed.notify_all()

    def put(
        self, request: Request, shard: object, segments: Segments, tensors: Mapping[str, Any], now: float = 0.0
    ) -> list[Ready]:
        """`PendingInputs.put` for `request` at `shard`. Call it only between `enter` and `leave` of a message."""
        with self._lock:
            pending = self._requests[request.id].pending
            if not pending and (alone := segments.alone) and alone.needs == tensors.keys():
                return [Ready(alone, dict(tensors), now)]
            if (inputs := pending.get(shard)) is None:
                inputs = pending[shard] = PendingInputs(segments)
            ready = inputs.put(tensors, now)
            if inputs.complete:
                del pending[shard]
            return ready

    def add_stats(self, request: Request, stats: RequestStats) -> None:
        """Add to the statistics that the next outgoing message of `request` carries."""
        with self._lock:
            self._requests[request.id].stats += stats

    def take_stats(self, request: Request) -> RequestStats:
        """Remove and return the statistics added so far."""
        with self._lock:
            entry = self._requests[request.id]
            stats, entry.stats = entry.stats, NO_STATS
            return stats

    def drain(self, seconds: float) -> None:
        """Accept no new request, and wait up to `seconds` until the requests in flight have left or expired."""
        until = self._clock() + seconds
        with self._changed:
            self._draining = True
            while (left := until - self._clock()) > 0:
                self._evict()
                if not any(entry.messages or entry.pending for entry in self._requests.values()):
                    return
                expires = self._deadlines[0][0] - self._clock() if self._deadlines else left
                self._changed.wait(min(left, max(0.0, expires) + 0.001))

    def _evict(self) -> None:
        """Drop the waiting inputs and statistics of requests whose deadline has passed."""
        now = self._clock()
        while self._deadlines and self._deadlines[0][0] < now:
            _, name = heapq.heappop(self._deadlines)
            if entry := self._requests.get(name):
                entry.pending.clear()
                entry.stats = NO_STATS
                if not entry.messages:
                    del self._requests[name]
        if len(self._deadlines) > 2 * len(self._requests) + SLACK:
            self._deadlines = [(entry.deadline, name) for name, entry in self._requests.items()]
            heapq.heapify(self._deadlines)
