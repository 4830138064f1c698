"""The requests that are in a server: counted, so that it can end when the last one has left."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator

from cluster.errors import Draining


class Occupants:
    """Requests by their ids. Once the server drains, only those come in that are in it already."""

    def __init__(self, awaited: Callable[[str], bool], any_awaited: Callable[[], bool]) -> None:
        """`awaited`: whether the server still waits for something of that request, and `any_awaited`: of any."""
        self._awaited = awaited
        self._any_awaited = any_awaited
        self._inside: Counter[str] = Counter()
        self._draining = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def visit(self, request: str) -> Iterator[None]:
        """Be in the server for a while. Raises `Draining`."""
        self.enter(request)
        try:
            yield
        finally:
            self.leave(request)

    def enter(self, request: str) -> None:
        """Come in. Raises `Draining` where the server is about to end, and the request is not in it."""
        with self._changed:
            if self._draining and request not in self._inside and not self._awaited(request):
                raise Draining("this server is about to end, and begins no new request")
            self._inside[request] += 1

    def leave(self, request: str) -> None:
        """Go out, as often as it came in."""
        with self._changed:
            self._inside[request] -= 1
            if not self._inside[request]:
                del self._inside[request]
            self._changed.notify_all()

    def drain(self, seconds: float) -> None:
        """Let no new request in, and wait up to `seconds` until those that are in have left."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(self._empty, seconds)

    def _empty(self) -> bool:
        return not self._inside and not self._any_awaited()
