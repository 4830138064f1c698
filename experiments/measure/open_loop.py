"""Sends requests at intended moments, whether or not earlier ones are answered.

A thread waits for each moment and hands the request to a pool of threads. If none of them is free, the request begins
late, as it does if the waiting thread wakes up late. Both delays are part of the latency, which counts from the
intended moment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Result = TypeVar("Result")


def send(
    offsets: Sequence[float],
    request: Callable[[int, float], Result],
    keep: Callable[[Result], None],
    threads: int,
) -> None:
    """Call `request` in a pool of threads, for each offset with its index and intended moment on `time.perf_counter`.

    `offsets` are in seconds after the call of `send`, ascending. `keep` is called with each result, in this thread, as
    soon as the result is there. After an error no further request begins; requests in flight are awaited, their results
    kept, and the error is raised.
    """
    done: SimpleQueue[Future[Result]] = SimpleQueue()
    submitted: list[Future[Result]] = []
    stop = threading.Event()
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()

        def pace() -> None:
            for place, offset in enumerate(offsets):
                intended = begun + offset
                if stop.wait(max(0.0, intended - time.perf_counter())):
                    return
                try:
                    future = pool.submit(request, place, intended)
                except RuntimeError as error:  # the system starts no further thread
                    future = Future()
                    future.set_exception(error)
                submitted.append(future)
                future.add_done_callback(done.put)

        pacer = threading.Thread(target=pace, name="pacer")
        pacer.start()
        kept: set[Future[Result]] = set()
        try:
            for _ in offsets:
                future = done.get()
                kept.add(future)  # first, so that no result is kept twice
                keep(future.result())
        finally:
            stop.set()
            pacer.join()
            pool.shutdown(cancel_futures=True)
            for future in submitted:
                if future not in kept and not future.cancelled() and not future.exception():
                    keep(future.result())
