"""A time limit that holds on a busy machine, too."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STEP = 0.01
"""Seconds of a single sleep of `Lateness`."""


class Lateness(threading.Thread):
    """Sleeps again and again, and adds up how late it woke because it waited for a core or the interpreter's lock."""

    def __init__(self) -> None:
        super().__init__(name="lateness", daemon=True)
        self._over = threading.Event()
        self.late = 0.0

    def run(self) -> None:
        before = time.monotonic()
        while not self._over.wait(STEP):
            woke = time.monotonic()
            self.late += max(0.0, woke - before - STEP)
            before = woke

    def stop(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """Assert that the block takes less than `seconds`, not counting how late an idle thread woke meanwhile."""
    lateness = Lateness()
    lateness.start()
    start = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - start
        lateness.stop()
    assert took < seconds + lateness.late, f"{took:.2f} s, of which {lateness.late:.2f} s were waiting for a core"
