"""Calls of a gRPC server that wait for their peer, and the end of those that wait too long.

gRPC gives a call a thread when its first frame arrives, and lets it wait for the rest until the deadline that the peer
chose. A peer that sends no more would hold that thread for good.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Protocol, Self, TypeVar

from transports.base import log

Item = TypeVar("Item")


class Cancellable(Protocol):
    def cancel(self) -> bool | None: ...


class Watchdog:
    """Cancels every call that waits for its peer for longer than `patience` seconds, or up to a quarter more."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[Cancellable, float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="grpc-watchdog", daemon=True)
        self._thread.start()

    def waiting(self, stream: Iterator[Item], call: Cancellable) -> Iterator[Item]:
        """`stream`, of which every step is a time of waiting for the peer of `call`."""
        while True:
            self._since[call] = time.monotonic()
            try:
                item = next(stream)
            except StopIteration:
                return
            finally:
                self._since.pop(call, None)
            yield item

    def sending(self, stream: Iterator[Item], call: Cancellable) -> Iterator[Item]:
        """`stream`, after every item of which the peer of `call` is waited for to take it."""
        for item in stream:
            self._since[call] = time.monotonic()
            try:
                yield item
            finally:
                self._since.pop(call, None)

    def _watch(self) -> None:
        while not self._closed.wait(self._patience / 4):
            latest = time.monotonic() - self._patience
            for call, since in list(self._since.items()):
                if since < latest and self._since.pop(call, 0.0):
                    log.warning("ended a call whose peer let it wait for more than %g s", self._patience)
                    call.cancel()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
