"""Destination queues (flow `forward`): a slow destination blocks only its own queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cluster.errors import Draining
from transports.errors import ResourceExhausted, WireError

Task = Callable[[WireError | None], None]
"""Called with None to run, or with the error for which the queue rejects it. Not called if `close` drops the task."""

LOCAL = ""
"""The queue of the stages that this server executes."""


class DestinationQueues:
    """A queue for each destination address, which runs one task at a time, in order; and the queue `LOCAL`.

    `LOCAL` runs several tasks at a time and has no bound of its own: the node bounds the messages in all queues
    together. An empty queue occupies no thread.
    """

    def __init__(self, local: Callable[[], int], bound: int, threads: int) -> None:
        """`local`: how many tasks of `LOCAL` run at a time. `bound`: most tasks that wait for one address. `threads`:
        most threads."""
        self._local = local
        self._bound = bound
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="node")
        self._waiting: dict[str, deque[Task]] = {}
        self._running: dict[str, int] = {}
        self._open = True
        self._changed = threading.Condition()

    def put(self, queue: str, task: Task, *, refusable: bool = True) -> None:
        """Run `task` when its turn comes. Calls it with an error at once if the queues are closed, if no thread can be
        started, or if the task is `refusable` and its queue is full."""
        if (refusal := self._put(queue, task, refusable)) is not None:
            task(refusal)

    def take_back(self, queue: str) -> list[Task]:
        """Remove and return the tasks that wait in `queue`."""
        with self._changed:
            waiting = self._waiting.get(queue, deque())
            taken = list(waiting)
            waiting.clear()
            return taken

    def close(self, seconds: float) -> None:
        """Wait up to `seconds` until every task has run; then drop the tasks that still wait, and accept no more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running, seconds)
            self._open = False
            for waiting in self._waiting.values():
                waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _put(self, queue: str, task: Task, refusable: bool) -> WireError | None:
        with self._changed:
            if not self._open:
                return Draining("this server has ended")
            waiting = self._waiting.setdefault(queue, deque())
            if refusable and queue != LOCAL and len(waiting) >= self._bound:
                return ResourceExhausted(f"{self._bound} messages already wait for {queue}")
            running = self._running.get(queue, 0)
            waiting.append(task)
            if running < (self._local() if queue == LOCAL else 1):
                try:
                    self._threads.submit(self._run, queue)
                except RuntimeError as error:  # the system can start no more threads
                    if not running:
                        waiting.remove(task)
                        return ResourceExhausted(f"no thread could be started for {queue or 'a stage'}: {error}")
                else:
                    self._running[queue] = running + 1
            return None

    def _run(self, queue: str) -> None:
        while (task := self._next(queue)) is not None:
            task(None)

    def _next(self, queue: str) -> Task | None:
        """The next task. None if the queue is empty; the calling thread then no longer counts as one that runs it."""
        with self._changed:
            if self._waiting[queue]:
                return self._waiting[queue].popleft()
            self._running[queue] -= 1
            if not self._running[queue]:
                del self._running[queue], self._waiting[queue]
            self._changed.notify_all()
            return None
