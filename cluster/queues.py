"""Destination queues (flow `forward`): a slow destination blocks only its own queue."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from cluster.errors import Draining
from transports.errors import ResourceExhausted, WireError

Task = Callable[[WireError | None], "Next | None"]
"""Called with None to run, or with the error for which the queue rejects it; returns the task after it, if there is
one. Not called if `close` drops the task."""


class Next(NamedTuple):
    """A task, the queue in which it is to run, and whether that queue may refuse it because it is full."""

    queue: str
    task: Task
    refusable: bool = True


LOCAL = ""
"""The queue of the stages that this server executes."""


class DestinationQueues:
    """A queue for each destination address, which runs one task at a time, in order; and the queue `LOCAL`.

    `LOCAL` runs several tasks at a time and has no bound of its own: the node bounds the messages in all queues
    together. An empty queue occupies no thread. A thread runs the next task of the same request itself if that task's
    queue is idle, because waking another thread takes longer.
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

    def put(self, queue: str, task: Task, refusable: bool = True) -> None:
        """Run `task` when its turn comes. Calls it with an error at once if the queues are closed, if no thread can be
        started, or if the task is `refusable` and its queue is full; the task after it is put in the same way."""
        after: Next | None = Next(queue, task, refusable)
        while after is not None and (refusal := self._put(*after)) is not None:
            after = after.task(refusal)

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
                error = self._start(queue)
                if error is None:
                    self._running[queue] = running + 1
                elif not running:
                    waiting.remove(task)
                    return ResourceExhausted(f"no thread could be started for {queue or 'a stage'}: {error}")
            return None

    def _start(self, queue: str) -> RuntimeError | None:
        """Let another thread run `queue`; returns the error if the system can start no more threads. The caller holds
        the lock."""
        withdrawn = threading.Event()
        try:
            self._threads.submit(self._run, queue, withdrawn)
        except RuntimeError as error:
            withdrawn.set()  # the executor keeps the call, and makes it once it has a thread
            return error
        return None

    def _run(self, queue: str, withdrawn: threading.Event) -> None:
        with self._changed:  # until `_start` has returned
            if withdrawn.is_set():
                return
        task = self._next(queue)
        while task is not None:
            after = task(None)
            if after is not None and self._moved(queue, after.queue):
                queue, task = after.queue, after.task
                continue
            if after is not None:
                self.put(*after)
            task = self._next(queue)

    def _moved(self, queue: str, idle: str) -> bool:
        """Whether the calling thread may run the next task of another queue, which is `idle`, instead of one of
        `queue`. If tasks wait in `queue`, another thread takes it over."""
        with self._changed:
            running = self._running.get(idle, 0)
            if not self._open or idle == queue or running >= (self._local() if idle == LOCAL else 1):
                return False
            if not self._waiting[queue]:
                self._end(queue)
            elif self._start(queue):
                return False
            self._waiting.setdefault(idle, deque())
            self._running[idle] = running + 1
            return True

    def _next(self, queue: str) -> Task | None:
        """The next task. None if the queue is empty; the calling thread then no longer counts as one that runs it."""
        with self._changed:
            if self._waiting[queue]:
                return self._waiting[queue].popleft()
            self._end(queue)
            return None

    def _end(self, queue: str) -> None:
        """Count one thread fewer that runs `queue`, which is empty. The caller holds the lock."""
        self._running[queue] -= 1
        if not self._running[queue]:
            del self._running[queue], self._waiting[queue]
        self._changed.notify_all()
