"""Spans: what this process did for a traced request, and when.

A request is traced if its messages carry a field `traceparent` (W3C Trace Context, https://www.w3.org/TR/trace-context).
Every hop replaces the parent span in this field. Without the field nothing is recorded.

Rules:
  - Times are seconds of `time.perf_counter()`, which on Linux all processes of a machine share.
  - Spans stay in the process (`RECORDER`) until a client fetches them, after the measured requests.
  - A leaf span is one part of a phase. The other spans enclose parts: `request` and `serve` are the work of a process
    on a message, `handle` is the work of its handler, `work` and `step` are the work after the answer, `call` is a
    message to another process with its answer, and `exchange` and `await` are times in which a process waits for other
    processes.
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
"""Most records that a process keeps. A record is one span, the spans of a call, or the spans of the work after an
answer. Further records are dropped, and their spans are counted."""
LONGEST = 256
"""Most characters of a `traceparent` value; longer values are ignored."""
CLIENT = -1
"""The `server` of spans that belong to no portion of the model, or whose portion is only known from their process."""
_IDS = "-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-"
OWN = re.compile(f"00{_IDS}01")
"""A `traceparent` value as processes of this program write it: version, trace, span and flags."""
PARENT = re.compile(f"00{_IDS}[0-9a-f][13579bdf]|(?!00|ff)[0-9a-f]{{2}}{_IDS}[0-9a-f][13579bdf](-.*)?")
"""A value whose flags ask for spans: the last bit is 1. Versions after 00 may have further text at the end."""
STEPS = ("encode", "exchange", "decode")
"""The names of the spans of a call, in their order."""
_RANDOM = random.Random()
os.register_at_fork(after_in_child=_RANDOM.seed)  # otherwise forked processes draw the same ids
_draw, _is_own = _RANDOM.getrandbits, OWN.fullmatch
_LEAST = 10**15
"""Added to 52 random bits, it gives a number of 16 decimal digits: an id that is written faster than in hexadecimal."""

Given = TypeVarTuple("Given")
Result = TypeVar("Result")

Context = NewType("Context", str)
"""Where new spans belong: a trace, and the span that encloses them. It is a `traceparent` value in version 00.

It is kept as text, since messages carry it as text: to parse and format it at every hop would take longer than to
record spans.
"""


def new_context() -> Context:
    """A new trace, and a span in it."""
    return Context(f"00-{_draw(128):032x}-{new_id()}-01")


def child(context: Context) -> Context:
    """A context in the same trace, with a new span."""
    return Context(f"{context[:36]}{_draw(52) + _LEAST}-01")


def trace_of(context: Context) -> str:
    """The id of the trace: 32 hexadecimal digits."""
    return context[3:35]


def span_of(context: Context) -> str:
    """The id of the enclosing span: 16 hexadecimal digits."""
    return context[36:52]


def new_id() -> str:
    """A new id: 16 random digits."""
    return str(_draw(52) + _LEAST)


def context_of(fields: Mapping[str, object]) -> Context | None:
    """The context in a message's fields; None if there is no context, or if the peer asks for no spans.

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
    """Empty for a leaf, which gets an id only when one is needed."""
    parent: str
    """The id of the enclosing span; empty for the span of a request."""
    name: str
    begin: float
    end: float
    server: int = CLIENT
    what: str = ""
    """The stage that was executed, or the method of the message."""


_Moments = Sequence[float]


def _call(within: Context, moments: _Moments, server: int, what: str) -> Iterator[Span]:
    """The spans of a call at the caller: `STEPS`, each from one of `moments` to the next; fewer if the call failed."""
    for name, part in zip(STEPS, pairwise(moments), strict=False):
        yield _leaf(within, name, part, server)


def _serve(within: Context, moments: _Moments, server: int, what: str) -> Iterator[Span]:
    """The spans of a call at the server: `serve` for the method `what`, `decode` before the handler, `encode` after it.

    The call's context encloses these spans and the spans of the handler, so `serve` needs no id.
    """
    decode, _, *encode = pairwise(moments)
    yield _leaf(within, "decode", decode, server)
    for part in encode:
        yield _leaf(within, "encode", part, server)
    yield _leaf(within, "serve", (moments[0], moments[-1]), server, what)


def _work(within: Context, moments: _Moments, server: int, what: str) -> Iterator[Span]:
    """The spans of deferred work, whose own context is `what`: its steps, and the `queue` wait between two steps."""
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
"""Either one span: its context, name, begin, end, server, what, and own context. Or the spans of one of `_PARTS`: the
value of `traceparent`, then the kind and its arguments. Spans are built later: to build each span while a request waits
would take several times as long."""


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
    """Number of records that the recorder still has."""
    dropped: int
    """Number of spans dropped above the bound since spans were last taken."""


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
        """Keep a span within the span of `within`. `own`: its own context, if it encloses other spans; else empty."""
        if len(self._kept) < self._bound:  # threads may exceed the bound by a few records: appending takes no lock
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
        what: str = "",
        own: str = "",
    ) -> Result:
        """What `work(*given)` returns or raises. Records its execution as a span, as `add` does."""
        begin = time.perf_counter()
        try:
            return work(*given)
        finally:
            self.add(within, name, begin, time.perf_counter(), server, what, own)

    def add_parts(
        self, traceparent: object, kind: str, moments: Sequence[float], server: int = CLIENT, what: str = ""
    ) -> None:
        """Keep the spans of a `call`, `serve` or `work` (`kind`), which are made from `moments` (`_PARTS`).

        `traceparent`: the context of the spans; if it is malformed, no spans are kept.
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
