"""From spans to seconds by hop and phase: each moment counts once, in every flow. Expected figures are by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.spans import Clock, Recorded
from experiments.measure.attribution import AT_WORK, RANKS, WAITS, Placed, attribute, placed
from experiments.store.phases import PHASES
from transports.spans import CLIENT, Span

TRACE = "ab" * 16
ROOT = Span(TRACE, "root", "", "request", 0.0, 10.0)


def span(name: str, begin: float, end: float, parent: str = "root", own: str = "", server: int = CLIENT) -> Span:
    return Span(TRACE, own, parent, name, begin, end, server)


def found(client: Sequence[Span], *nodes: Sequence[Span], ahead: float = 0.0) -> dict[int, dict[str, float]]:
    """Hop -> phase -> seconds of `ROOT`. `nodes`: the spans of each server, whose clock is `ahead` seconds ahead."""
    recorded = {"client": Recorded(list(client))}
    recorded |= {
        f"node-{server}": Recorded(list(spans), clock=Clock(ahead, 0.001), server=server)
        for server, spans in enumerate(nodes)
    }
    seconds = attribute(ROOT, placed(recorded).get(TRACE, []))
    return {hop: {name: round(value, 9) for name, value in phases.items()} for hop, phases in seconds.items()}


def call(begin: float, end: float, own: str, parent: str = "root", lasts: float = 0.25) -> list[Span]:
    """The spans of a call: `lasts` seconds of its own, `lasts` of encode, the exchange, and `lasts` of decode."""
    first, second, last = begin + lasts, begin + 2 * lasts, end - lasts
    return [
        span("call", begin, end, parent, own),
        span("encode", first, second, own),
        span("exchange", second, last, own),
        span("decode", last, end, own),
    ]


def serve(begin: float, end: float, caller: str) -> list[Span]:
    """The spans of a message at a server: decode, a pause before the handler, and encode take 0.25 s each."""
    return [
        span("serve", begin, end, caller),
        span("decode", begin, begin + 0.25, caller),
        span("handle", begin + 0.5, end - 0.25, caller),
        span("encode", end - 0.25, end, caller),
    ]


def test_a_request_without_spans_is_the_clients() -> None:
    assert found([]) == {CLIENT: {"route": 10.0}}


def test_nested_calls() -> None:
    """The client calls server 0 from 1 to 9. Server 0 computes from 3 to 4 and calls server 1 from 4 to 7."""
    seconds = found(
        call(1, 9, "first"),
        [
            *serve(2, 8, "first"),
            span("compute", 3, 4, "first"),
            *call(4, 7, "second", "first"),
        ],
        [*serve(5, 6.5, "second"), span("compute", 5.5, 6.25, "second")],
    )
    assert seconds == {
        CLIENT: {"route": 2.25, "encode": 0.25, "decode": 0.25},
        0: {"send": 1.25, "decode": 0.5, "other": 0.25, "route": 1.5, "compute": 1.0, "encode": 0.5},
        1: {"send": 0.75, "decode": 0.25, "other": 0.25, "compute": 0.75, "encode": 0.25},
    }
    assert sum(sum(phases.values()) for phases in seconds.values()) == 10.0


def test_the_clock_of_another_machine_is_moved() -> None:
    client, node = call(1, 9, "first"), serve(2, 8, "first")
    late = [each._replace(begin=each.begin + 100, end=each.end + 100) for each in node]
    assert found(client, late, ahead=100.0) == found(client, node)


def test_work_after_an_acknowledgement_and_the_way_to_the_client() -> None:
    """Flow `forward`: server 0 acknowledges from 2 to 3, waits in a queue until 4, and sends the result at 6."""
    seconds = found(
        [
            *call(1, 3.5, "first"),
            span("await", 3.5, 10, own="waits"),
            *serve(7, 8, "result"),
        ],
        [
            *serve(2, 3, "first"),
            span("work", 2.5, 9, "first", "w"),
            span("queue", 2.5, 4, "w"),
            span("step", 4, 9, "w"),
            span("compute", 4.5, 6, "w"),
            *call(6, 9, "result", "w"),
        ],
    )
    assert seconds[0] == {
        "decode": 0.5,  # the message from 2 to 2.25, and the acknowledgement of the result from 8.75 on
        "other": 0.25,
        "encode": 0.5,
        "queue": 1.0,  # 2.5 to 4, less 0.25 s to encode the acknowledgement here and 0.25 s to decode it at the client
        "route": 0.75,
        "compute": 1.5,
        "send": 0.5,
    }
    assert seconds[CLIENT] == {
        "route": 1.5,
        "encode": 0.5,
        "decode": 0.5,
        "other": 0.25,
        "send": 1.25,
        "wake": 1.0,
    }


def test_nodes_in_the_clients_process_are_hops() -> None:
    """Transport `none` has no server, and all spans are in one process."""
    seconds = found(
        [
            *call(1, 9, "first", lasts=0.0),
            span("handle", 1.5, 8.5, "first", server=0),
            span("compute", 2, 3, "first", server=0),
            *call(3, 8, "second", "first", lasts=0.0),
            span("handle", 4, 7, "second", server=1),
            span("compute", 5, 6, "second", server=1),
        ]
    )
    assert seconds == {
        CLIENT: {"route": 2.0},
        0: {"send": 1.0, "route": 1.0, "compute": 1.0},
        1: {"send": 2.0, "route": 2.0, "compute": 1.0},
    }


def test_what_overlaps_counts_once_and_a_wait_beside_it() -> None:
    """Two branches compute from 2 to 5 and from 3 to 7; a stage waits for both."""
    seconds = found(
        [],
        [span("compute", 2, 5), span("wait", 5, 7)],
        [span("queue", 0, 4), span("compute", 3, 7)],
    )
    assert seconds[0] == {"compute": 3.0, "wait": 2.0}
    assert seconds[1] == {"queue": 2.0, "compute": 2.0}
    assert seconds[CLIENT] == {"route": 3.0}


def test_spans_beyond_the_request_are_cut() -> None:
    assert found([], [span("compute", -5, 2), span("encode", 9, 12), span("queue", 12, 13)]) == {
        0: {"compute": 2.0, "encode": 1.0},
        CLIENT: {"route": 7.0},
    }


def test_a_call_to_a_server_that_left_nothing_belongs_to_the_caller() -> None:
    assert found(call(1, 9, "lost"))[CLIENT]["send"] == 7.25


NAMES = st.sampled_from([*RANKS, *AT_WORK, *WAITS, "call", "handle", "work", "wait"])
SPANS = st.builds(
    lambda name, begin, lasts, server, parent, own: Span(TRACE, own, parent, name, begin, begin + lasts, server),
    NAMES,
    st.floats(-5, 12),
    st.floats(0, 12),
    st.integers(CLIENT, 2),
    st.sampled_from(["root", "a", "b", "c"]),
    st.sampled_from(["", "a", "b", "c"]),
)


@given(st.lists(st.tuples(SPANS, st.integers(CLIENT, 2)), max_size=30))
def test_whatever_was_recorded_the_phases_sum_to_the_request(spans: Sequence[tuple[Span, int]]) -> None:
    seconds: Mapping[int, Mapping[str, float]] = attribute(ROOT, [Placed(one, "node-0", hop) for one, hop in spans])
    assert sum(phases.get(name, 0.0) for phases in seconds.values() for name in PHASES) == pytest.approx(10.0)
    assert all(value >= 0 for phases in seconds.values() for value in phases.values())
