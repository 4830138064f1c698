"""An event loop in one thread that waits for sockets and for moments, exact to some microseconds.

asyncio and `epoll` round timeouts up to milliseconds, which is too coarse for a link of `rtt:1ms`. `select` does not
round, but its cost grows with the number of descriptors. So `select` waits for one descriptor only: the descriptor of a
selector that watches all sockets.
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
"""Option of prctl(2): the nanoseconds by which the kernel may end a wait late; 50,000 by default."""
LONG, AHEAD = 1e-3, 2e-4
"""Seconds. A wait longer than `LONG` is split: its first part ends `AHEAD` before the moment.

A processor that was idle for some milliseconds takes up to `AHEAD` to wake. The short wait that follows is exact.
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
        """Call `calls[READ]` and `calls[WRITE]` while `sock` is ready for them; without calls, forget `sock`.

        To withdraw a call, remove it from the same dict: the loop may already have noticed that the socket is ready.
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
        """Close the loop's descriptors. The loop must not be running."""
        self._stopped = True
        self._timers.clear()
        self._selector.close()
        self._awake.close()
        self._waker.close()

    def _left(self) -> float | None:
        """Seconds to wait for the next moment, or for the time shortly before it; None if no moment is set."""
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
        # A full pipe wakes the loop anyway; if the pipe is closed, the loop has ended.
        with suppress(OSError):
            self._waker.send(b"\0")


def _exact_timers() -> None:
    """Let the kernel end this thread's waits without slack, if the system supports it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
