"""The spans of nodes (`transports.spans`): how a node records its steps, and how a client fetches the spans.

A node answers `spans` with its oldest spans, and forgets them. In the answer, `left` is the number of records that the
node still has, and `busy` is the number of requests in flight, which will add more. Spans travel as MessagePack in a
tensor, since the text of a message is limited. The answer has the time on the node's clock, from which the client
learns how far that clock is ahead of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from cluster.flows import Steps
from cluster.pending import Ready
from cluster.registry import fields_read, whole
from transports.base import Message
from transports.errors import MalformedMessage, WireError
from transports.spans import CLIENT, RECORDER, Context, Recorder, Span

MOST = 512
"""Most records in an answer. A span takes about 150 bytes, so an answer is smaller than the tensors of most models."""
SETTLING = 100
"""Most questions to a node that is still busy: in the flow `forward`, a client has its outputs before nodes finish."""
READINGS = 5
"""Number of questions for reading the clock of another machine; the fastest answer counts."""


def waiting(
    put: Callable[[Mapping[str, Any], float], list[Ready]],
    trace: Context,
    server: int,
    begun: float,
    tensors: Mapping[str, Any],
) -> list[Ready]:
    """Call `put`, and record a span `wait` for each segment whose first input came with an earlier message.

    `begun`: when the handling of the message began. Inputs that its own stages make later do not count as waits.
    """
    now = time.perf_counter()
    ready = put(tensors, now)
    for item in ready:
        if item.since < begun:
            RECORDER.add(trace, "wait", item.since, now, server, item.segment.name)
    return ready


def deferred(steps: Steps, caller: Context, own: Context, server: int) -> Steps:
    """`steps`, recorded as a span `work`, which encloses a span for each `step` and each wait in a `queue`.

    `own` is the context of `work`, within the span of `caller`.
    """
    moments = [time.perf_counter()]
    rejected = None
    try:
        while True:
            try:
                queue = next(steps) if rejected is None else steps.throw(rejected)
            except StopIteration:
                return
            finally:
                moments.append(time.perf_counter())
            try:
                yield queue
                rejected = None
            except WireError as error:
                rejected = error
            moments.append(time.perf_counter())
    finally:
        RECORDER.add_parts(caller, "work", moments, server, own)


def answer(recorder: Recorder, busy: int) -> Message:
    """The spans of the oldest `MOST` records, which the recorder forgets. `busy`: requests in flight."""
    taken = recorder.take(MOST)
    data = np.frombuffer(msgspec.msgpack.encode(taken.spans), np.uint8)
    fields = {"left": taken.left, "busy": busy, "dropped": taken.dropped, "now": time.perf_counter()}
    return Message("recorded", fields, {"spans": data})


@dataclass(frozen=True)
class Clock:
    """The clock of another process, compared with the clock of this process."""

    offset: float = 0.0
    """Seconds by which the other clock is ahead of this one."""
    uncertainty: float = 0.0
    """Largest error of the offset in seconds: half of the round trip that read the clock."""


@dataclass(frozen=True)
class Recorded:
    """The spans of a process, on its own clock."""

    spans: list[Span] = field(default_factory=list)
    dropped: int = 0
    """Number of spans that the process did not keep."""
    clock: Clock = Clock()
    server: int = CLIENT
    """The portion that the process holds."""


def fetch(ask: Callable[[Message], Message], server: int, *, same_clock: bool) -> Recorded:
    """All spans of a node. `ask` sends a message to the node. `same_clock`: whether the node runs on this machine.

    Raises a `WireError`.
    """
    found, dropped, readings = list[Span](), 0, list[Clock]()
    while True:
        began = time.perf_counter()
        reply = ask(Message("spans"))
        ended = time.perf_counter()
        with fields_read("a node answered 'spans' with"):
            left, busy, lost = (whole(reply.fields, name) for name in ("left", "busy", "dropped"))
            now = reply.fields["now"]
        if not isinstance(now, float):
            raise MalformedMessage("a node answered 'spans' without the time on its clock")
        found += _spans(reply)
        dropped += lost
        readings.append(Clock(now - (began + ended) / 2, (ended - began) / 2))
        unsettled = busy and len(readings) < SETTLING
        if not left and not unsettled and (same_clock or len(readings) >= READINGS):
            clock = Clock() if same_clock else min(readings, key=lambda reading: reading.uncertainty)
            return Recorded(found, dropped, clock, server)


def _spans(reply: Message) -> list[Span]:
    """The spans in a node's answer. Raises `MalformedMessage`."""
    try:
        return msgspec.msgpack.decode(reply.tensors["spans"].tobytes(), type=list[Span])
    except (KeyError, msgspec.MsgspecError) as error:
        raise MalformedMessage(f"a node answered 'spans' with no spans: {type(error).__name__}: {error}") from None
