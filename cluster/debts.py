"""What requests have cost at a server and no message has carried on yet (flow `forward`)."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cluster.request import Request, RequestStats


class Debts:
    """Tallies by request. What is left of one at its deadline is there until the next `evict`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._owed: dict[str, tuple[float, RequestStats]] = {}
        self._clock = clock
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._owed)

    def owe(self, request: Request, cost: RequestStats) -> None:
        """Add `cost` to what is owed for `request`."""
        with self._lock:
            _, owed = self._owed.get(request.id, (0.0, RequestStats()))
            self._owed[request.id] = (request.deadline, owed + cost)

    def settle(self, request: Request) -> RequestStats:
        """Take everything that is owed for `request`."""
        with self._lock:
            return self._owed.pop(request.id, (0.0, RequestStats()))[1]

    def evict(self) -> None:
        """Forget what is owed for requests whose deadline has passed."""
        with self._lock:
            now = self._clock()
            for name in [name for name, (deadline, _) in self._owed.items() if deadline < now]:
                del self._owed[name]
