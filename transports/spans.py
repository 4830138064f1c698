"""Spans: what this process did for a traced request, and when.

A request is traced if its messages carry a field `traceparent` (W3C Trace Context, https://www.w3.org/TR/trace-context).
Every hop replaces the parent in it. Without the field nothing is recorded.

Rules:
  - Times are seconds of `time.perf_counter()`, which on Linux all processes of a machine share.
  - Spans stay in the process (`RECORDER`) until somebody takes them, outside of what is measured.
  - A leaf is a part of a phase; the other spans enclose: `request` and `serve` are the work of a process on a message,
    `handle` its handler, `work` and `step` what follows the answer, `call` a message to another process with its
    answer, and `exchange` and `await` the time in which a process waits for others.
"""

from __future__ import annotations

import os
import random
import re
import threading
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple, Self

TRACEPARENT = "traceparent"
BOUND = 2**16
"""Records that a process keeps, of a span or the spans of a call; further ones are dropped, and their spans counted."""
LONGEST = 256
"""Characters of a value of `traceparent` that is read."""
CLIENT = -1
"""The `server` of spans that belong to no portion of the model, or to one that only the process itself tells."""
PARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f][13579bdf](-.*)?")
"""A value of `traceparent` whose flags ask for spans: the last bit is 1."""
STEPS = ("encode", "exchange", "decode")
"""The spans of a call, in their order."""
NOBODY = ("0" * 32, "0" * 16)
"""The trace and the span that the standard forbids."""
_RANDOM = random.Random()
os.register_at_fork(after_in_child=_RANDOM.seed)  # forked processes would draw the same ids


class Context(NamedTuple):
    """The place of new spans: a trace, and the span that encloses them."""

    trace: str
    """32 hexadecimal digits."""
    span: str
    """16 hexadecimal digits."""

    @classmethod
    def new(cls) -> Self:
        return cls(f"{_RANDOM.getrandbits(128):032x}", new_id())

    def child(self) -> Context:
        """The same trace within a new span."""
        return Context(self.trace, new_id())

    def __str__(self) -> str:
        """The value of `traceparent`."""
        return f"00-{self.trace}-{self.span}-01"


def new_id() -> str:
    return f"{_RANDOM.getrandbits(64):016x}"


def context_of(fields: Mapping[str, object]) -> Context | None:
    """The context that a message's fields carry; None without one, or if the peer asks for no spans.

    A malformed value is ignored, as the standard demands. Versions after 00 may have more at the end.
    """
    text = fields.get(TRACEPARENT)
    return _parsed(text) if isinstance(text, str) and len(text) <= LONGEST else None


@lru_cache(maxsize=64)  # a process reads the field of a message several times
def _parsed(text: str) -> Context | None:
    if (found := PARENT.fullmatch(text)) is None:
        return None
    version, trace, span, more = found.groups()
    valid = trace != NOBODY[0] and span != NOBODY[1] and not (more and version == "00")
    return Context(trace, span) if valid else None


class Span(NamedTuple):
    """What a process did from `begin` to `end` (seconds on its clock)."""

    trace: str
    id: str
    """Empty for a leaf until somebody needs it."""
    parent: str
    """Empty for the span of a request."""
    name: str
    begin: float
    end: float
    server: int = CLIENT
    what: str = ""
    """The stage that was executed, the method of a message."""


_Moments = Sequence[float]
_Kept = tuple[str, str, str, str, float, float, int, str] | tuple[str, _Moments] | tuple[str, str, _Moments]
"""A `Span`, or the `traceparent` of a call with the moments of its spans at the caller, or with a method those at the
server. To read the field and build each span while a request waits would take several times as long."""


def _spans(kept: _Kept) -> list[Span]:
    if len(kept) == 8:
        return [Span(*kept)]
    if (call := _parsed(kept[0])) is None:
        return []
    trace, parent = call
    if len(kept) == 2:
        moments = kept[1]
        return [Span(trace, "", parent, *step) for step in zip(STEPS, moments, moments[1:], strict=False)]
    _, method, moments = kept
    read, *rest = pairwise(moments)
    inner = [Span(trace, "", parent, "decode", *read), *(Span(trace, "", parent, "encode", *part) for part in rest[1:])]
    return [*inner, Span(trace, "", parent, "serve", moments[0], moments[-1], CLIENT, method)]


class Taken(NamedTuple):
    """Spans that were taken from a recorder."""

    spans: Sequence[Span]
    left: int
    """Records that are still there."""
    dropped: int
    """Spans above the bound since the last time."""


class Recorder:
    """The spans of a process, at most `bound` records. Thread-safe."""

    def __init__(self, bound: int = BOUND) -> None:
        self._bound = bound
        self._kept: list[_Kept] = []
        self._dropped = 0
        self._lock = threading.Lock()

    def add(
        self,
        within: Context,
        name: str,
        begin: float,
        end: float,
        server: int = CLIENT,
        what: str = "",
        own: str = "",
    ) -> None:
        """Keep a span, whose id is `own`, in the span `within`."""
        self._keep((within.trace, own, within.span, name, begin, end, server, what))

    def called(self, traceparent: object, moments: Sequence[float]) -> None:
        """Keep the spans `STEPS` of a call, from one moment to the next: fewer if it failed."""
        if isinstance(traceparent, str) and len(traceparent) <= LONGEST:
            self._keep((traceparent, moments))

    def served(self, traceparent: object, method: str, moments: Sequence[float]) -> None:
        """Keep a span `serve`, and its `decode` and `encode`, with the handler in between: all with the call as parent,
        since the spans of the handler, which the call's context encloses too, need no id of `serve` then."""
        if isinstance(traceparent, str) and len(traceparent) <= LONGEST:
            self._keep((traceparent, method, moments))

    def _keep(self, record: _Kept) -> None:
        if len(self._kept) < self._bound:  # threads may exceed it by a few: appending takes no lock
            self._kept.append(record)
        else:
            with self._lock:
                self._dropped += len(_spans(record))

    def span(self, within: Context, name: str, server: int = CLIENT, what: str = "") -> Open:
        """Record the block as a span; yields the context for spans in it."""
        return Open(self, within, name, server, what)

    def take(self, most: int = BOUND) -> Taken:
        """Remove the first `most` records and return their spans."""
        with self._lock:
            taken = self._kept[:most]
            del self._kept[:most]
            dropped, self._dropped = self._dropped, 0
            return Taken([span for each in taken for span in _spans(each)], len(self._kept), dropped)


class Open:
    """A span that is still going on. A class, since a generator would take twice as long."""

    __slots__ = ("_begin", "_given", "_own", "_recorder")

    def __init__(self, recorder: Recorder, within: Context, name: str, server: int, what: str) -> None:
        self._recorder, self._given = recorder, (within, name, server, what)
        self._own = Context(within.trace, f"{_RANDOM.getrandbits(64):016x}")

    def __enter__(self) -> Context:
        self._begin = time.perf_counter()
        return self._own

    def __exit__(self, *exc: object) -> None:
        within, name, server, what = self._given
        self._recorder.add(within, name, self._begin, time.perf_counter(), server, what, self._own.span)


RECORDER = Recorder()
"""The spans of this process."""
