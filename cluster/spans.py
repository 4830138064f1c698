"""The spans of nodes (`transports.spans`): what a node records of its steps, and how a client fetches them.

A node answers `spans` with the oldest of its spans, and forgets them; `left` says how many records are still there,
and `busy` how many requests are in flight, which will leave more. Spans travel as MessagePack in a tensor, since the
text of a message is limited. The answer has the time on the node's clock, from which the client learns how far that
clock is ahead of its own.
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
"""Records in an answer. A span takes about 150 bytes, so that an answer is smaller than the tensors of most models."""
SETTLING = 100
"""Questions to a node that is still busy: in the flow `forward`, the client has its outputs before the nodes end."""
READINGS = 5
"""Questions by which the clock of another machine is read; the fastest answer counts."""


def waiting(
    put: Callable[[Mapping[str, Any], float], list[Ready]],
    trace: Context,
    server: int,
    begun: float,
    tensors: Mapping[str, Any],
) -> list[Ready]:
    """`put` with the time, and a span `wait` for each segment whose first input came with an earlier message.

    `begun`: when the message was taken up; what its own stages make afterwards is not waited for.
    """
    now = time.perf_counter()
    ready = put(tensors, now)
    for item in ready:
        if item.since < begun:
            RECORDER.add(trace, "wait", item.since, now, server, item.segment.name)
    return ready


def deferred(steps: Steps, caller: Context, own: Context, server: int) -> Steps:
    """The same steps, with a span `work` around all of them, and in it one for each `step` and each wait in a `queue`.

    `own` is the context of `work`, in the span `caller`.
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
    """The clock of another process, beside the one here."""

    offset: float = 0.0
    """Seconds by which it is ahead of the one here."""
    uncertainty: float = 0.0
    """The offset is at most so many seconds more or less, half of the round trip that read it."""


@dataclass(frozen=True)
class Recorded:
    """The spans of a process, on its own clock."""

    spans: list[Span] = field(default_factory=list)
    dropped: int = 0
    """Spans that it did not keep."""
    clock: Clock = Clock()
    server: int = CLIENT
    """The portion that it holds."""


def fetch(ask: Callable[[Message], Message], server: int, *, same_clock: bool) -> Recorded:
    """All spans of a node. `ask` sends a message to it. `same_clock`: it runs on this machine.

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
    """Raises `MalformedMessage`."""
    try:
        return msgspec.msgpack.decode(reply.tensors["spans"].tobytes(), type=list[Span])
    except (KeyError, msgspec.MsgspecError) as error:
        raise MalformedMessage(f"a node answered 'spans' with no spans: {type(error).__name__}: {error}") from None
