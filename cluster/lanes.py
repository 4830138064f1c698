"""Work that may have to wait for somebody else, in lanes: what goes one way holds nothing up that goes another."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.errors import Draining
from transports.errors import ResourceExhausted, WireError

Work = Callable[[WireError | None], None]
"""What is done once its turn has come (None), or is told why that will never be."""

HERE = ""
"""The lane of what is done at this server: it waits for the registry or a model server at the most."""


class Lanes:
    """Lanes by the address where what is in them goes. One piece of work at a time is done in each, in its order.

    `HERE` alone does several at a time, and takes whatever comes. Its caller bounds what is in all the lanes together,
    and so the threads: a lane has none while nothing is in it.
    """

    def __init__(self, hands: Callable[[], int], most: int, threads: int) -> None:
        """`hands`: how many threads `HERE` may have at a moment. `most`: what may wait for one address. `threads`: of
        all lanes together."""
        self._hands = hands
        self._most = most
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="node")
        self._waiting: dict[str, deque[Work]] = {}
        self._busy: Counter[str] = Counter()
        self._open = True
        self._changed = threading.Condition()

    def put(self, lane: str, work: Work, *, refusable: bool = True) -> None:
        """Have `work` done in its turn. Where the lane is full (unless it is not `refusable`), or all of them are
        closed, it is told so at once."""
        if (refused := self._put(lane, work, refusable)) is not None:
            work(refused)

    def take_back(self, lane: str) -> list[Work]:
        """What waits in `lane`, which then waits no more."""
        with self._changed:
            taken = list(self._waiting.get(lane, ()))
            self._waiting.get(lane, deque()).clear()
            return taken

    def close(self, seconds: float) -> None:
        """Wait up to `seconds` until all is done; begin nothing more then, and forget what is left."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, seconds)
            self._open = False
            for waiting in self._waiting.values():
                waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _put(self, lane: str, work: Work, refusable: bool) -> WireError | None:
        with self._changed:
            if not self._open:
                return Draining("this server has ended, and begins nothing more")
            waiting = self._waiting.setdefault(lane, deque())
            if refusable and lane != HERE and len(waiting) >= self._most:
                return ResourceExhausted(f"{self._most} messages wait for {lane} already")
            waiting.append(work)
            if self._busy[lane] < (self._hands() if lane == HERE else 1):
                self._busy[lane] += 1
                self._threads.submit(self._run, lane)
            return None

    def _run(self, lane: str) -> None:
        while (work := self._next(lane)) is not None:
            work(None)

    def _next(self, lane: str) -> Work | None:
        """What is to be done now; None where the lane is empty, which this thread has left then."""
        with self._changed:
            if self._waiting[lane]:
                return self._waiting[lane].popleft()
            self._busy[lane] -= 1
            if not self._busy[lane]:
                del self._busy[lane], self._waiting[lane]
            self._changed.notify_all()
            return None
