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
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple, NewType, TypeVar, TypeVarTuple

TRACEPARENT = "traceparent"
BOUND = 2**16
"""Records that a process keeps, of a span, the spans of a call or those of the work after an answer; further ones are
dropped, and their spans counted."""
LONGEST = 256
"""Characters of a value of `traceparent` that is read."""
CLIENT = -1
"""The `server` of spans that belong to no portion of the model, or to one that only the process itself tells."""
_IDS = "-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-"
OWN = re.compile(f"00{_IDS}01")
"""A value of `traceparent` as processes of this program write it: a version, a trace, a span and flags."""
PARENT = re.compile(f"00{_IDS}[0-9a-f][13579bdf]|(?!00|ff)[0-9a-f]{{2}}{_IDS}[0-9a-f][13579bdf](-.*)?")
"""A value whose flags ask for spans: the last bit is 1. Versions after 00 may have more at the end."""
STEPS = ("encode", "exchange", "decode")
"""The spans of a call, in their order."""
_RANDOM = random.Random()
os.register_at_fork(after_in_child=_RANDOM.seed)  # forked processes would draw the same ids
_draw, _is_own = _RANDOM.getrandbits, OWN.fullmatch
_LEAST = 10**15
"""Added to 52 random bits, it makes 16 decimal digits: an id that is written faster than in hexadecimal digits."""

Given = TypeVarTuple("Given")
Result = TypeVar("Result")

Context = NewType("Context", str)
"""The place of new spans, a trace and the span that encloses them: a value of `traceparent`, in version 00.

Text, since it travels as text: to read it and to write it again at every hop would take longer than to record spans.
"""


def new_context() -> Context:
    """A new trace, and a span in it."""
    return Context(f"00-{_draw(128):032x}-{new_id()}-01")


def child(context: Context) -> Context:
    """The same trace within a new span."""
    return Context(f"{context[:36]}{_draw(52) + _LEAST}-01")


def trace_of(context: Context) -> str:
    """32 hexadecimal digits."""
    return context[3:35]


def span_of(context: Context) -> str:
    """16 hexadecimal digits."""
    return context[36:52]


def new_id() -> str:
    """16 random digits."""
    return str(_draw(52) + _LEAST)


def context_of(fields: Mapping[str, object]) -> Context | None:
    """The context that a message's fields carry; None without one, or if the peer asks for no spans.

    A malformed value is ignored, as the standard demands.
    """
    text = fields.get(TRACEPARENT)
    return None if text is None else _read(text)


def _read(text: object) -> Context | None:
    if not isinstance(text, str) or len(text) > LONGEST:
        return None
    if _is_own(text):
        return Context(text)
    return Context(f"00{text[2:52]}-01") if PARENT.fullmatch(text) else None


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


def _call(within: Context, moments: _Moments, server: int, what: str) -> Iterator[Span]:
    """A call at the caller: `STEPS`, from one moment to the next; fewer if it failed."""
    for name, part in zip(STEPS, pairwise(moments), strict=False):
        yield _leaf(within, name, part, server)


def _serve(within: Context, moments: _Moments, server: int, what: str) -> Iterator[Span]:
    """A call at the server: `serve` of the method `what`, and its `decode` and `encode`, with the handler in between.

    The call's context encloses all of them, and the spans of the handler, which need no id of `serve` then.
    """
    decode, _, *encode = pairwise(moments)
    yield _leaf(within, "decode", decode, server)
    for part in encode:
        yield _leaf(within, "encode", part, server)
    yield _leaf(within, "serve", (moments[0], moments[-1]), server, what)


def _work(within: Context, moments: _Moments, server: int, what: str) -> Iterator[Span]:
    """Deferred work, whose own context is `what`: its steps, and before each but the first the wait in its `queue`."""
    for number, part in enumerate(pairwise(moments)):
        yield _leaf(Context(what), "queue" if number % 2 else "step", part, server)
    yield _leaf(within, "work", (moments[0], moments[-1]), server)._replace(id=span_of(Context(what)))


def _leaf(within: Context, name: str, part: tuple[float, float], server: int, what: str = "") -> Span:
    return Span(trace_of(within), "", span_of(within), name, *part, server, what)


_PARTS: Mapping[str, Callable[[Context, _Moments, int, str], Iterator[Span]]] = {
    "call": _call,
    "serve": _serve,
    "work": _work,
}
_Record = tuple[Context, str, float, float, int, str, str] | tuple[str, str, _Moments, int, str]
"""A span: its context, name, begin, end, server, what, and own context. Or spans of one of `_PARTS`: the value of
`traceparent`, then the kind and its arguments. To build each span while a request waits would take several times as
long."""


def _spans(record: _Record) -> list[Span]:
    if len(record) == 7:
        within, name, begin, end, server, what, own = record
        return [Span(trace_of(within), span_of(Context(own)), span_of(within), name, begin, end, server, what)]
    text, kind, moments, server, what = record
    context = _read(text)
    return [] if context is None else list(_PARTS[kind](context, moments, server, what))


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
        self._kept: list[_Record] = []
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
        """Keep a span in the span of `within`. `own`: its own context, if it encloses others; else empty."""
        if len(self._kept) < self._bound:  # threads may exceed it by a few: appending takes no lock
            self._kept.append((within, name, begin, end, server, what, own))
        else:
            self._drop(1)

    def timed(
        self,
        within: Context,
        name: str,
        work: Callable[[*Given], Result],
        *given: *Given,
        server: int = CLIENT,
    ) -> Result:
        """What `work` returns or raises; it becomes a span."""
        begin = time.perf_counter()
        try:
            return work(*given)
        finally:
            self.add(within, name, begin, time.perf_counter(), server)

    def add_parts(
        self, traceparent: object, kind: str, moments: Sequence[float], server: int = CLIENT, what: str = ""
    ) -> None:
        """Keep the spans with these `moments` that a `call`, `serve` or `work` has (`_call`, `_serve`, `_work`).

        `traceparent`: their context; if it is malformed, there are none.
        """
        if not isinstance(traceparent, str) or len(traceparent) > LONGEST:
            return
        record = traceparent, kind, moments, server, what
        if len(self._kept) < self._bound:
            self._kept.append(record)
        else:
            self._drop(len(_spans(record)))

    def _drop(self, spans: int) -> None:
        with self._lock:
            self._dropped += spans

    def take(self, most: int = BOUND) -> Taken:
        """Remove the first `most` records and return their spans."""
        with self._lock:
            taken = self._kept[:most]
            del self._kept[:most]
            dropped, self._dropped = self._dropped, 0
            return Taken([span for each in taken for span in _spans(each)], len(self._kept), dropped)


RECORDER = Recorder()
"""The spans of this process."""
