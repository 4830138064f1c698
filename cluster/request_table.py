"""The requests in flight at a server: their messages, waiting inputs and statistics, under one lock.

Rules:
  - A request is here while a message of it is being handled, or while a stage waits for another of its inputs.
  - At its deadline everything that waits is forgotten, so that an input that never comes holds no memory. Deadlines are
    in one heap: an expired request costs O(log n) once, and nothing is swept per message.
  - Once the server drains, only messages of requests that are here already may enter.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cluster.errors import Draining
from cluster.pending import Consumers, PendingInputs, Ready
from cluster.request import NO_STATS, Request, RequestStats

SLACK = 1024
"""Deadlines of requests that have left may stay in the heap: this many, or as many as there are requests."""


@dataclass
class _InFlight:
    deadline: float
    messages: int = 0
    """Messages of the request that are being handled or are queued here."""
    pending: dict[object, PendingInputs] = field(default_factory=dict)
    """By shard."""
    stats: RequestStats = NO_STATS
    """Statistics to attach to the next outgoing message (flow `forward`)."""


class RequestTable:
    """In-flight requests by id. Any number of threads may use it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._requests: dict[str, _InFlight] = {}
        self._deadlines: list[tuple[float, str]] = []
        self._draining = False
        self._changed = threading.Condition()

    def __len__(self) -> int:
        with self._changed:
            self._evict()
            return len(self._requests)

    def __contains__(self, request: str) -> bool:
        with self._changed:
            self._evict()
            return request in self._requests

    def enter(self, request: Request) -> None:
        """Count a message of `request`. Raises `Draining` if the server drains and the request is not here yet."""
        with self._changed:
            self._evict()
            entry = self._requests.get(request.id)
            if self._draining and not (entry and (entry.messages or entry.pending)):
                raise Draining("this server is about to end, and begins no new request")
            if entry is None:
                entry = self._requests[request.id] = _InFlight(request.deadline)
                heapq.heappush(self._deadlines, (request.deadline, request.id))
            entry.messages += 1

    def leave(self, request: Request) -> None:
        """One message fewer; the request is forgotten with its last one, unless something of it waits."""
        with self._changed:
            entry = self._requests[request.id]
            entry.messages -= 1
            kept = entry.messages or ((entry.pending or entry.stats != NO_STATS) and entry.deadline >= self._clock())
            if not kept:
                del self._requests[request.id]
            if self._draining:
                self._changed.notify_all()

    def put(
        self, request: Request, shard: object, consumers: Consumers, stages: int, tensors: Mapping[str, Any]
    ) -> list[Ready]:
        """`PendingInputs.put` for `request`, which has a message here, at `shard`."""
        with self._changed:
            pending = self._requests[request.id].pending
            inputs = pending.setdefault(shard, PendingInputs(consumers, stages))
            ready = inputs.put(tensors)
            if inputs.complete:
                del pending[shard]
            return ready

    def add_stats(self, request: Request, stats: RequestStats) -> None:
        """Add to the statistics that the next outgoing message of `request` carries."""
        with self._changed:
            self._requests[request.id].stats += stats

    def take_stats(self, request: Request) -> RequestStats:
        """The statistics added since this was last called."""
        with self._changed:
            entry = self._requests[request.id]
            stats, entry.stats = entry.stats, NO_STATS
            return stats

    def drain(self, seconds: float) -> None:
        """Let no new request in, and wait up to `seconds` until those that are here have left or expired."""
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
        """Forget what waits of requests whose deadline has passed."""
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
