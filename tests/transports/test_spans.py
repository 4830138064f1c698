"""Spans: the field `traceparent`, the recorder, and what both ends of every transport record of a call."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest

import transports
from tests.transports.conftest import Case
from transports import Message
from transports.address import Address
from transports.errors import ConnectError, RemoteError
from transports.pool import Pool
from transports.spans import (
    RECORDER,
    TRACEPARENT,
    Context,
    Recorder,
    Span,
    child,
    context_of,
    new_context,
    span_of,
    trace_of,
)

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
"""The example of the standard (W3C Trace Context)."""
HERE = Context(f"00-{TRACE}-{SPAN}-01")


@pytest.fixture(autouse=True)
def nothing_recorded() -> Iterator[None]:
    """Each test begins and ends without spans."""
    RECORDER.take()
    yield
    RECORDER.take()


def recorded() -> list[Span]:
    return list(RECORDER.take().spans)


def test_a_context_is_read_as_it_was_written() -> None:
    assert (trace_of(HERE), span_of(HERE)) == (TRACE, SPAN)
    assert context_of({TRACEPARENT: HERE}) == HERE
    made = new_context()
    within = child(made)
    assert context_of({TRACEPARENT: made}) == made
    assert context_of({TRACEPARENT: within}) == within
    assert trace_of(within) == trace_of(made)
    assert len({span_of(each) for each in (made, within, child(made))}) == 3


VALID = [f"00-{TRACE}-{SPAN}-03", f"cc-{TRACE}-{SPAN}-01", f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like"]


@pytest.mark.parametrize("text", VALID)
def test_flags_and_versions_that_the_standard_allows_are_read(text: str) -> None:
    assert context_of({TRACEPARENT: text}) == HERE


IGNORED = {
    "nothing": "",
    "no text": 7,
    "another version's end": f"cc-{TRACE}-{SPAN}-01.what",
    "more in version 00": f"00-{TRACE}-{SPAN}-01-what",
    "version ff": f"ff-{TRACE}-{SPAN}-01",
    "no trace": f"00-{'0' * 32}-{SPAN}-01",
    "no parent": f"00-{TRACE}-{'0' * 16}-01",
    "a short trace": f"00-{TRACE[1:]}-{SPAN}-01",
    "capitals": f"00-{TRACE.upper()}-{SPAN}-01",
    "other digits": f"00-{TRACE[:-1]}\u0663-{SPAN}-01",
    "a line more": f"00-{TRACE}-{SPAN}-01\n",
    "too long": f"cc-{TRACE}-{SPAN}-01-{'x' * 1000}",
    "not sampled": f"00-{TRACE}-{SPAN}-00",
}


@pytest.mark.parametrize("case", IGNORED)
def test_a_value_that_asks_for_no_spans_is_ignored(case: str) -> None:
    assert context_of({TRACEPARENT: IGNORED[case]}) is None


def test_a_recorder_counts_what_it_does_not_keep() -> None:
    recorder = Recorder(bound=3)
    for number in range(5):
        recorder.add(HERE, "compute", number, number + 1)
    first = recorder.take(2)
    assert ([span.begin for span in first.spans], first.left, first.dropped) == ([0, 1], 1, 2)
    own = child(HERE)
    recorder.add(HERE, "call", 9, 10, server=4, what="infer", own=own)
    rest = recorder.take()
    assert rest.spans[-1] == Span(TRACE, span_of(own), SPAN, "call", 9, 10, 4, "infer")
    assert (len(rest.spans), rest.left, rest.dropped) == (2, 0, 0)


KINDS = {
    "call": (("encode", 0, 1), ("exchange", 1, 2), ("decode", 2, 3)),
    "serve": (("decode", 0, 1), ("encode", 2, 3), ("serve", 0, 3)),
    "work": (("step", 0, 1), ("queue", 1, 2), ("step", 2, 3), ("work", 0, 3)),
}
"""Kind -> the names, begins and ends of the spans that the moments 0, 1, 2 and 3 give."""


@pytest.mark.parametrize("kind", KINDS)
def test_spans_that_share_moments_are_one_record(kind: str) -> None:
    recorder = Recorder(bound=1)
    for traceparent in (HERE, HERE, "malformed", 7):
        recorder.add_parts(traceparent, kind, (0, 1, 2, 3))
    taken = recorder.take()
    assert tuple((span.name, span.begin, span.end) for span in taken.spans) == KINDS[kind]
    assert taken.dropped == len(KINDS[kind])
    recorder.add_parts("malformed", kind, (0, 1, 2, 3))
    assert not recorder.take().spans


def test_spans_of_many_threads_are_kept_or_counted() -> None:
    recorder = Recorder(bound=1000)

    def record() -> None:
        for _ in range(500):
            recorder.add(HERE, "compute", 0.0, 1.0)

    threads = [threading.Thread(target=record) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    taken = recorder.take(10**6)
    assert 1000 <= len(taken.spans) < 1004
    assert len(taken.spans) + taken.dropped == 2000


def traced(case: Case, fields: dict[str, str | int | float | bool]) -> tuple[Message, list[Span]]:
    """The message that the handler received, and what both ends recorded of the call."""
    received: list[Message] = []

    def handle(message: Message) -> Message:
        received.append(message)
        return Message("ok", {}, message.tensors)

    connection = case.connect(case.serve(handle).address)
    RECORDER.take()
    connection.call(Message("ask", fields, {"x": np.ones(1000, np.float32)}), 5.0)
    return received[0], recorded()


def test_both_ends_of_a_call_record_their_steps(remote_transport: Case) -> None:
    message, spans = traced(remote_transport, {TRACEPARENT: HERE, "other": 1})
    assert (context_of(message.fields), message.fields["other"]) == (HERE, 1)
    assert {(span.trace, span.parent) for span in spans} == {(TRACE, SPAN)}
    (serve,) = (span for span in spans if span.name == "serve")
    assert serve.what == "ask"
    inner = [span for span in spans if serve.begin <= span.begin and span.end <= serve.end and span != serve]
    outer = [span for span in spans if span not in (*inner, serve)]
    assert [span.name for span in sorted(outer, key=lambda span: span.begin)] == ["encode", "exchange", "decode"]
    assert [span.name for span in sorted(inner, key=lambda span: span.begin)] == ["decode", "encode"]
    encode, exchange, decode = sorted(outer, key=lambda span: span.begin)
    assert (encode.end, exchange.end) == (exchange.begin, decode.begin)
    assert exchange.begin <= serve.begin <= serve.end <= exchange.end


@pytest.mark.parametrize("fields", [{}, {TRACEPARENT: "malformed"}, {TRACEPARENT: f"00-{TRACE}-{SPAN}-00"}])
def test_a_call_that_asks_for_none_leaves_no_span(
    any_transport: Case, fields: dict[str, str | int | float | bool]
) -> None:
    message, spans = traced(any_transport, fields)
    assert spans == []
    assert message.fields == fields


def test_a_connection_that_cannot_be_made_is_recorded_too() -> None:
    with Pool(transports.make("none")) as pool, pytest.raises(ConnectError):
        pool.call(Address("nowhere", 2**31), Message("ask", {TRACEPARENT: HERE}), 5.0)
    (span,) = recorded()
    assert (span.trace, span.parent, span.name) == (TRACE, SPAN, "connect")
    assert span.begin <= span.end


def test_a_call_that_fails_leaves_its_steps(remote_transport: Case) -> None:
    def fail(message: Message) -> Message:
        raise ValueError("no")

    connection = remote_transport.connect(remote_transport.serve(fail).address)
    with pytest.raises(RemoteError):
        connection.call(Message("ask", {TRACEPARENT: HERE}), 5.0)
    assert {span.name for span in recorded()} == {"encode", "exchange", "decode", "serve"}


def test_a_new_connection_and_a_wait_for_a_worker_are_recorded(remote_transport: Case) -> None:
    entered, leave = threading.Event(), threading.Event()

    def handle(message: Message) -> Message:
        entered.set()
        leave.wait(5.0)
        return Message("ok")

    server = remote_transport.serve(handle, workers=1, when_full="wait")
    with Pool(remote_transport.transport(), "pooled", remote_transport.codec) as pool:
        callers = [
            threading.Thread(target=pool.call, args=(server.address, Message("ask", {TRACEPARENT: HERE}), 20.0))
            for _ in range(2)
        ]
        for caller in callers:
            caller.start()
        assert entered.wait(5.0)
        leave.set()
        for caller in callers:
            caller.join()
    names = [span.name for span in recorded()]
    assert 1 <= names.count("connect") <= 2
    assert names.count("queue") == names.count("serve") == 2
