"""Traces requests: gives each a trace, and after a block writes where the time went (`phases.csv`, `trace.json`).

Nodes are asked for their spans after each block, outside of the timed requests. No measured message carries spans.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cluster.launch import Cluster
from cluster.spans import Recorded, fetch
from experiments.measure.attribution import Placed, Request, attribute, placed
from experiments.spec.experiment import Cell
from experiments.spec.schedule import Block
from experiments.store import rows, trace_file
from experiments.store.phases import CLIENT_HOP, HopPhases
from experiments.store.trace_file import Event
from transports.base import Transport
from transports.errors import WireError
from transports.pool import Pool
from transports.spans import CLIENT, RECORDER, Context, Span, new_id, span_of, trace_of

PATIENCE, HASTE = 10.0, 1.0
"""Seconds within which a node has to answer: normally, and after a failure."""


@dataclass
class Tracer:
    """The traced requests of a run. Many threads may begin and end requests."""

    phases: rows.Writer
    events: trace_file.Writer
    began: float
    """Zero of the run's clock, on `time.perf_counter`."""
    cluster: Cluster | None
    """None: no node runs in another process."""
    transport: Transport | None
    """The transport over which nodes are asked."""
    servers: int
    """Portions of the model."""
    same_clock: bool
    """Whether all processes run on this machine."""
    _requests: list[Request] = field(default_factory=list)
    _pids: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        epoch = time.time() - time.perf_counter() + self.began
        about = {"requests": trace_file.REQUESTS, "epoch": epoch}
        self.events.append([{"name": "splitbench", "ph": "M", "pid": 1, "args": about}])

    def forget(self) -> None:
        """Begin a block: forget earlier requests, which are not part of it."""
        self._requests.clear()
        RECORDER.take()

    def end(self, context: Context, run: int, intended: float, begin: float, end: float) -> None:
        """Count the answered request of `context`. `intended`: its intended start under a load."""
        root = Span(trace_of(context), span_of(context), "", "request", intended, end)
        if intended < begin:
            RECORDER.add(context, "queue", intended, begin)
        self._requests.append(Request(root, run))

    def write(self, cell: Cell, block: Block, patience: float = PATIENCE) -> None:
        """Fetch all spans, and write the phases of the timed requests of a block. Raises a `WireError`."""
        requests, self._requests = [each for each in self._requests if each.run >= 0], []
        recorded = self._recorded(cell, patience)
        spans = placed(recorded)
        known = {process.server: process for process in recorded.values()}
        for request in requests:
            own = spans.get(request.span.trace, [])
            for server, seconds in sorted(attribute(request.span, own).items()):
                process = known.get(server, recorded[CLIENT_HOP])
                hop = CLIENT_HOP if server == CLIENT else f"server-{server}"
                clock = process.clock
                self.phases.append(
                    HopPhases(
                        cell, request.run, block.number, hop, seconds, clock.offset, clock.uncertainty, process.dropped
                    )
                )
        self.events.append(self._events(cell, [each for each in requests if each.run < trace_file.REQUESTS], spans))

    def salvage(self, cell: Cell, block: Block) -> None:
        """`write` after a failure, with the nodes that still answer."""
        with contextlib.suppress(WireError):
            self.write(cell, block, HASTE)

    def _recorded(self, cell: Cell, patience: float) -> dict[str, Recorded]:
        """The spans of each process. After a failure (little `patience`) nodes that do not answer are left out."""
        own = RECORDER.take()
        found = {CLIENT_HOP: Recorded(list(own.spans), own.dropped)}
        if self.cluster is None or self.transport is None or cell.transport == "none":
            return found
        with contextlib.closing(Pool(self.transport)) as pool:
            for number, name in enumerate(self.cluster.nodes):
                try:
                    address = self.cluster.addresses(name)[self.transport.name]
                    found[name] = fetch(
                        lambda message, at=address: pool.call(at, message, patience)[0],  # type: ignore[misc]
                        number % self.servers,
                        same_clock=self.same_clock,
                    )
                except WireError:
                    if patience >= PATIENCE:
                        raise
        return found

    def _events(
        self, cell: Cell, requests: Sequence[Request], spans: Mapping[str, Sequence[Placed]]
    ) -> Iterator[Event]:
        shown = [Placed(each.span, CLIENT_HOP, CLIENT) for each in requests]
        names = {each.span.id: {"cell": cell.name, "run": each.run} for each in requests}
        for request in requests:
            shown += _with_ids(request.span, spans.get(request.span.trace, ()))
        for process in dict.fromkeys(each.process for each in shown):
            if process not in self._pids:
                self._pids[process] = pid = len(self._pids) + 1
                yield {"name": "process_name", "ph": "M", "pid": pid, "args": {"name": process}}
            own = [each for each in shown if each.process == process]
            for lane, each in lanes(own):
                yield self._event(each, self._pids[process], lane, names.get(each.span.id, {}))

    def _event(self, each: Placed, pid: int, lane: int, more: Mapping[str, object]) -> Event:
        span = each.span
        begin, end = (round((moment - self.began) * 1e6, 3) for moment in (span.begin, span.end))
        ids = {"trace": span.trace, "span": span.id, "parent": span.parent, "server": each.hop}
        return {
            "name": f"{span.name} {span.what}".strip(),
            "cat": span.name,
            "ph": "X",
            "ts": begin,
            "dur": round(end - begin, 3),
            "pid": pid,
            "tid": lane,
            "args": {**ids, **more},
        }


def _with_ids(request: Span, spans: Sequence[Placed]) -> list[Placed]:
    """The spans of a request, each with an id of its own and a parent among them.

    The parent of a handler's spans is the span `serve` of the same process and call. If a parent was lost with its
    process, the span of the request takes its place.
    """
    known = {request.id, *(each.span.id for each in spans)}
    serving = {
        (each.process, each.span.parent): each.span._replace(id=new_id()) for each in spans if each.span.name == "serve"
    }

    def ids(process: str, span: Span) -> tuple[str, str]:
        call, serve = span.parent if span.parent in known else request.id, serving.get((process, span.parent))
        if serve and span.name == "serve":
            return serve.id, call
        inside = serve and serve.begin <= span.begin and (span.end <= serve.end or span.name == "work")
        return span.id or new_id(), serve.id if serve and inside else call

    named = [(each, *ids(each.process, each.span)) for each in spans]
    return [each._replace(span=each.span._replace(id=own, parent=parent)) for each, own, parent in named]


def lanes(spans: Iterable[Placed]) -> Iterator[tuple[int, Placed]]:
    """Each span with the number of a lane (1, 2, ...). Any two spans on a lane follow or enclose each other."""
    open_: list[list[tuple[float, str]]] = []
    for each in sorted(spans, key=lambda each: (each.span.begin, -each.span.end)):
        span = each.span
        for lane in open_:
            while lane and lane[-1][0] <= span.begin:
                lane.pop()
        fitting = [lane for lane in open_ if not lane or lane[-1][0] >= span.end]
        if not fitting:
            open_.append([])
            fitting = [open_[-1]]
        # The lane of the parent, else a free lane.
        best = min(fitting, key=lambda lane: (span.parent not in {own for _, own in lane}, len(lane)))
        best.append((span.end, span.id))
        yield next(place for place, lane in enumerate(open_, 1) if lane is best), each
