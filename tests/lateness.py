"""A bound on seconds that a busy machine does not break."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

STEP = 0.01
"""Seconds that the witness asks to sleep."""


class Witness(threading.Thread):
    """Sleeps and wakes, and adds up by how much it woke late: for want of a core, or of the interpreter's lock."""

    def __init__(self) -> None:
        super().__init__(name="witness", daemon=True)
        self._over = threading.Event()
        self.late = 0.0

    def run(self) -> None:
        asked = time.monotonic()
        while not self._over.wait(STEP):
            woke = time.monotonic()
            self.late += max(0.0, woke - asked - STEP)
            asked = woke

    def stop(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def in_time(seconds: float) -> Iterator[None]:
    """What is inside takes less than `seconds`, beside what a thread with nothing to do loses meanwhile."""
    witness = Witness()
    witness.start()
    start = time.monotonic()
    try:
        yield
    finally:
        took = time.monotonic() - start
        witness.stop()
    assert took < seconds + witness.late, f"{took:.2f} s, of which {witness.late:.2f} s were waiting for a core"
