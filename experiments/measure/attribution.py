"""From the spans of a request to seconds by hop and phase (`experiments.store.phases`). Pure: no clock, no I/O.

A hop is the client or a server. Each moment of the request counts for one phase at one hop, the first of these:
  - the phase of a running span in `RANKS`, the lowest rank first, and of equal ranks the span that began first;
  - `route` or `other`, at a hop where a process works on the request and waits for no other process;
  - `send`, at the server that the last begun call reaches;
  - `wake`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cluster.spans import Recorded
from experiments.store.phases import CLIENT_HOP, WAIT
from transports.spans import CLIENT, STEPS, Span

RANKS: Mapping[str, int] = {"compute": 0, "decode": 1, "encode": 1, "connect": 2, "lookup": 2, "queue": 3}
"""Names of spans that are phases -> rank; the lowest rank goes first."""
AT_WORK = frozenset({"request", "serve", "step"})
"""Spans in which a process works on the request; `handle` too, where no `serve` encloses it (transport `none`)."""
ROUTING = frozenset({"request", "handle", "step", "call"})
"""Spans whose own time is the phase `route`. The own time of `serve`, the transport's server around the handler, is
`other`."""
CALLED = frozenset({*STEPS, "connect"})
"""Spans in a `call` that belong to its caller; other spans in it belong to the server that handles it."""
WAITS = frozenset({"exchange", "await"})
"""Spans in which a process at work on the request waits for another process."""

Seconds = Mapping[int, Mapping[str, float]]
"""Hop (`CLIENT`, or the number of a server) -> phase -> seconds."""


class Placed(NamedTuple):
    """A span on the client's clock, with the process that recorded it and the hop to which it belongs."""

    span: Span
    process: str
    hop: int


@dataclass(frozen=True)
class Request:
    """A traced request: its span, and its place in the experiment."""

    span: Span
    run: int


def placed(recorded: Mapping[str, Recorded]) -> dict[str, list[Placed]]:
    """Trace -> its spans, sorted by begin. `recorded`: process -> its record; the client's process is `CLIENT_HOP`.

    Over `none`, nodes run in the client's process: their spans belong to the server that handles the enclosing call.
    """
    found: dict[str, list[Placed]] = defaultdict(list)
    own = {span.id: span for span in recorded[CLIENT_HOP].spans if span.id}
    handled = {span.parent: span.server for span in recorded[CLIENT_HOP].spans if span.name == "handle"}
    for process, record in recorded.items():
        ahead = record.clock.offset
        for span in record.spans:
            hop = _hop(span, own, handled) if process == CLIENT_HOP else record.server
            moved = span._replace(begin=span.begin - ahead, end=span.end - ahead) if ahead else span
            found[span.trace].append(Placed(moved, process, hop))
    for spans in found.values():
        spans.sort(key=lambda each: (each.span.begin, -each.span.end))
    return found


def _hop(span: Span, own: Mapping[str, Span], handled: Mapping[str, int]) -> int:
    """The hop of a span of the client's process. `own`: that process's spans by id. `handled`: call -> the server that
    handled it."""
    outer = own.get(span.parent)
    if span.server != CLIENT or outer is None:
        return span.server
    if outer.name == "call" and span.name not in CALLED:
        return handled.get(outer.id, CLIENT)
    return _hop(outer, own, handled)


def attribute(request: Span, spans: Iterable[Placed]) -> Seconds:
    """The seconds of a request by hop and phase. `spans`: the spans of its trace; parts outside of the request are
    ignored."""
    seconds: dict[int, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    inside = _clipped(request, spans)
    marks = sorted(
        (time, place, change)
        for place, each in enumerate(inside)
        for time, change in ((each.span.begin, 1), (each.span.end, -1))
    )
    now = _Now(inside)
    last = request.begin
    for time, place, change in marks:
        if time > last:
            hop, phase = now.phase()
            seconds[hop][phase] += time - last
            last = time
        now.change(place, change)
    for each in inside:
        seconds[each.hop]
        if each.span.name == WAIT:
            seconds[each.hop][WAIT] += each.span.end - each.span.begin
    return seconds


def _clipped(request: Span, spans: Iterable[Placed]) -> list[Placed]:
    """The request, and the parts of the spans within it."""
    found = [Placed(request, CLIENT_HOP, CLIENT)]
    for span, process, hop in spans:
        begin, end = max(span.begin, request.begin), min(span.end, request.end)
        if begin < end and span.id != request.id:
            found.append(Placed(span._replace(begin=begin, end=end), process, hop))
    return found


class _Now:
    """The spans that are running at a moment, and the phase that they make."""

    def __init__(self, spans: Sequence[Placed]) -> None:
        self._spans = spans
        served = {each.span.parent for each in spans if each.span.name == "serve"}
        self._reached = {each.span.parent: each.hop for each in spans if each.span.name in ("serve", "handle")}
        """Call -> the hop that it reaches."""
        self._at_work = {
            place
            for place, each in enumerate(spans)
            if each.span.name in AT_WORK or (each.span.name == "handle" and each.span.parent not in served)
        }
        self._leaves: set[int] = set()
        self._around: set[int] = set()
        self._calls: set[int] = set()
        self._awaits: set[int] = set()
        self._busy: Counter[int] = Counter()
        """Hop -> number of processes at work, less the number that wait for another process."""

    def change(self, place: int, change: int) -> None:
        """The span at `place` begins (1) or ends (-1)."""
        each = self._spans[place]
        name = each.span.name
        for belongs, active in (
            (name in RANKS, self._leaves),
            (name in ROUTING or name == "serve", self._around),
            (name == "exchange", self._calls),
            (name == "await", self._awaits),
        ):
            if belongs:
                active.add(place) if change > 0 else active.discard(place)
        if place in self._at_work or name in WAITS:
            self._busy[each.hop] += change if place in self._at_work else -change

    def phase(self) -> tuple[int, str]:
        """The hop and the phase for which this moment counts."""
        spans = self._spans
        if self._leaves:
            first = min(self._leaves, key=lambda place: (RANKS[spans[place].span.name], spans[place].span.begin, place))
            return spans[first].hop, spans[first].span.name
        if busy := [place for place in self._around if self._busy[spans[place].hop] > 0]:
            inner = spans[max(busy, key=lambda place: (spans[place].span.begin, place))]
            return inner.hop, "route" if inner.span.name in ROUTING else "other"
        if self._calls:
            call = spans[max(self._calls, key=lambda place: (spans[place].span.begin, place))]
            return self._reached.get(call.span.parent, call.hop), "send"
        return CLIENT, "wake" if self._awaits else "other"
