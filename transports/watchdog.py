"""Cancels the calls of a gRPC server whose peer stalls.

gRPC assigns a thread to a call when its first frame arrives, and lets it wait for the rest until the deadline that the
peer chose. Without the watchdog, a peer that sends nothing more would occupy that thread until then.
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
    """Cancels every call that waits for its peer for longer than `patience` seconds, within a quarter of that time."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._since: dict[Cancellable, float] = {}
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="grpc-watchdog", daemon=True)
        self._thread.start()

    def next(self, stream: Iterator[Item], call: Cancellable) -> Item | None:
        """The next item that the peer of `call` sends on `stream`; None at the end of the stream."""
        self._since[call] = time.monotonic()
        try:
            return next(stream, None)
        finally:
            self._since.pop(call, None)

    def receiving(self, stream: Iterator[Item], call: Cancellable) -> Iterator[Item]:
        """The items of `stream`, each of which the peer of `call` must send in time."""
        while (item := self.next(stream, call)) is not None:
            yield item

    def sending(self, stream: Iterator[Item], call: Cancellable) -> Iterator[Item]:
        """The items of `stream`, each of which the peer of `call` must take in time."""
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
                    log.warning("cancelled a call whose peer stalled for more than %g s", self._patience)
                    call.cancel()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
