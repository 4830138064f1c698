"""One thread that waits for sockets and for moments, exact to some microseconds.

asyncio and `epoll` round timeouts up to milliseconds, which a link of `rtt:1ms` cannot bear. `select` does not round,
but takes time for each descriptor. So `select` waits for one descriptor, that of the selector which knows all others.
"""

from __future__ import annotations

import ctypes
import heapq
import itertools
import select
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE
PR_SET_TIMERSLACK = 29
"""The kernel may end a wait so many nanoseconds late: 50,000 unless it is told otherwise."""
LONG, AHEAD = 1e-3, 2e-4
"""Seconds: a wait longer than the first is interrupted so long before its end as the second.

A processor that was idle for some milliseconds takes up to this time to wake. The short wait that follows is exact.
"""

Call = Callable[[], None]


class Loop:
    """Calls functions when a socket is ready, or when a moment of `time.monotonic()` has come."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._timers: list[tuple[float, int, Call]] = []
        self._numbers = itertools.count()
        self._asked: deque[Call] = deque()
        self._stopped = False
        self._awake, self._waker = socket.socketpair()
        for end in (self._awake, self._waker):
            end.setblocking(False)
        self.watch(self._awake, {READ: self._answer})

    def watch(self, sock: socket.socket, calls: dict[int, Call]) -> None:
        """Call `calls[READ]` and `calls[WRITE]` while `sock` is ready for them; without calls, forget it.

        Who withdraws a call changes the same dict: the loop may have noticed already that the socket is ready.
        """
        known = sock in self._selector.get_map()
        if not calls:
            if known:
                self._selector.unregister(sock)
            return
        (self._selector.modify if known else self._selector.register)(sock, sum(calls), calls)

    def at(self, moment: float, call: Call) -> None:
        """Call `call` at `moment`, or as soon as possible after it."""
        heapq.heappush(self._timers, (moment, next(self._numbers), call))

    def soon(self, call: Call) -> None:
        """Call `call` in the loop's thread. Any thread may use it."""
        self._asked.append(call)
        self._wake()

    def stop(self) -> None:
        """Let `run` return. Any thread and any signal handler may use it."""
        self._stopped = True
        self._wake()

    def run(self) -> None:
        """Wait and call until `stop`."""
        _exact_timers()
        while not self._stopped:
            if select.select([self._selector.fileno()], [], [], self._left())[0]:
                for key, events in self._selector.select(0):
                    self._ready(key.data, events)
            self._run_due()

    def close(self) -> None:
        """Free what the loop holds. It must not be running."""
        self._stopped = True
        self._timers.clear()
        self._selector.close()
        self._awake.close()
        self._waker.close()

    def _left(self) -> float | None:
        """Seconds to wait for the next moment, or for the time shortly before it; None: nothing is to come."""
        if not self._timers:
            return None
        left = self._timers[0][0] - time.monotonic()
        return left - AHEAD if left > LONG else max(0.0, left)

    def _ready(self, calls: dict[int, Call], events: int) -> None:
        for event in (WRITE, READ):
            if events & event and (call := calls.get(event)):
                call()

    def _run_due(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _answer(self) -> None:
        with suppress(BlockingIOError):
            while self._awake.recv(4096):
                pass
        while self._asked:
            self._asked.popleft()()

    def _wake(self) -> None:
        # Full: it wakes anyway. Closed: nothing is left to wake.
        with suppress(OSError):
            self._waker.send(b"\0")


def _exact_timers() -> None:
    """Let the kernel end this thread's waits on time, where it can be told to."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
