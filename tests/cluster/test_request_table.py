"""The request table: messages counted, inputs gathered by request and shard, deadlines, draining."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from cluster.errors import Draining
from cluster.pending import Ready
from cluster.request import NO_STATS, Request, RequestStats, Route
from cluster.request_table import SLACK, RequestTable
from cluster.segments import segments_of
from tests.cluster.hosts import Clock
from tests.cluster.plans import fork, placed
from tests.lateness import in_time

SEGMENTS = segments_of(placed(fork(), [0, 0, 0, 0]).portion(0), local_calls=False)
FAR = 1e9


def request(name: str, deadline: float = FAR) -> Request:
    return Request(name, Route("layer", "eager", "none"), deadline)


@contextlib.contextmanager
def message(table: RequestTable, asked: Request) -> Iterator[None]:
    """A message of the request is handled during the block."""
    table.enter(asked)
    try:
        yield
    finally:
        table.leave(asked)


def put(table: RequestTable, asked: Request, tensors: dict[str, Any], shard: str = "layer") -> list[Ready]:
    return table.put(asked, shard, SEGMENTS, tensors)


def send(table: RequestTable, asked: Request, tensors: dict[str, Any], shard: str = "layer") -> list[str]:
    """The segments, of one stage each, that a message with `tensors` completes."""
    with message(table, asked):
        return [ready.segment.name for ready in put(table, asked, tensors, shard)]


def test_inputs_wait_for_each_other_across_messages() -> None:
    table, asked = RequestTable(), request("r")
    assert send(table, asked, {"b": 1}) == []
    assert "r" in table
    assert send(table, asked, {"a": 2, "c": 3}) == ["b", "c", "join"]


def test_requests_and_shards_do_not_mix() -> None:
    table, one, two = RequestTable(), request("one"), request("two")
    for asked, shard, value in ((one, "layer", 1), (two, "layer", 2), (one, "other", 3)):
        assert send(table, asked, {"a": value, "b": value}, shard) == ["b", "c"]
    with message(table, two):
        assert put(table, two, {"c": 20}) == [Ready(SEGMENTS.all[-1], {"a": 2, "b": 2, "c": 20})]
    with message(table, one):
        assert put(table, one, {"c": 10}) == [Ready(SEGMENTS.all[-1], {"a": 1, "b": 1, "c": 10})]
        assert put(table, one, {"c": 30}, "other") == [Ready(SEGMENTS.all[-1], {"a": 3, "b": 3, "c": 30})]


def test_a_complete_request_leaves_the_table() -> None:
    table, asked = RequestTable(), request("r")
    send(table, asked, {"x": 0, "a": 1, "b": 2, "c": 3})
    assert len(table) == 0


def test_a_request_that_never_completes_is_forgotten_at_its_deadline() -> None:
    clock = Clock()
    table = RequestTable(clock)
    for number in range(100):
        send(table, request(f"r{number}", clock.now + 5.0), {"b": number})
        clock.now += 1.0
    assert len(table) <= 6


def test_statistics_of_an_expired_request_are_forgotten_even_while_a_message_is_handled() -> None:
    clock = Clock()
    table, late = RequestTable(clock), request("late", 5.0)
    with message(table, late):
        put(table, late, {"b": 1})
        table.add_stats(late, RequestStats(messages=1))
        clock.now = 6.0
        send(table, request("other"), {"x": 0})
        assert table.take_stats(late) == NO_STATS
        put(table, late, {"b": 1})
        table.add_stats(late, RequestStats(messages=1))
    assert "late" not in table


def test_deadlines_of_requests_that_have_left_are_dropped() -> None:
    table = RequestTable()
    for number in range(3 * SLACK):
        send(table, request(f"r{number}"), {"x": 0, "a": 1, "b": 2, "c": 3})
    assert len(table._deadlines) <= SLACK + 2


def test_statistics_add_up_until_they_are_taken() -> None:
    table, asked = RequestTable(), request("r")
    with message(table, asked):
        table.add_stats(asked, RequestStats(messages=1, compute=0.5))
    with message(table, asked):
        table.add_stats(asked, RequestStats(messages=2, queued=0.25))
        assert table.take_stats(asked) == RequestStats(messages=3, compute=0.5, queued=0.25)
        assert table.take_stats(asked) == NO_STATS


def test_a_draining_server_accepts_messages_of_requests_in_flight() -> None:
    table, waits, handled = RequestTable(), request("waits"), request("handled")
    send(table, waits, {"b": 1})
    with ThreadPoolExecutor(1) as threads, message(table, handled):
        draining = threads.submit(table.drain, 20.0)
        while not refused(table):
            pass
        assert send(table, waits, {"a": 2, "c": 3, "x": 0}) == ["b", "c", "join", "a"]
        with message(table, handled):
            assert not draining.done()
    draining.result()
    assert len(table) == 0


def refused(table: RequestTable) -> bool:
    """Whether a new request is refused; if it is accepted, it leaves again."""
    with contextlib.suppress(Draining):
        table.enter(request("new"))
        table.leave(request("new"))
        return False
    return True


def test_draining_ends_when_waiting_inputs_expire() -> None:
    table = RequestTable()
    send(table, request("half", time.monotonic() + 0.2), {"b": 1})
    with in_time(10):
        table.drain(60.0)
    assert len(table) == 0


def test_inputs_from_many_threads_complete_each_stage_once() -> None:
    table, found, lock = RequestTable(), [], threading.Lock()

    def feed(tensor: str) -> None:
        for number in range(300):
            asked = request(f"r{number}")
            with message(table, asked):
                ready = [(number, item.segment.name, item.inputs) for item in put(table, asked, {tensor: number})]
            with lock:
                found.extend(ready)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(feed, ["a", "b", "c", "x"]))
    joins = {number: inputs for number, segment, inputs in found if segment == "join"}
    assert len(found) == 4 * 300
    assert joins == {number: dict.fromkeys("abc", number) for number in range(300)}
    assert len(table) == 0


@pytest.mark.parametrize("known", [True, False])
def test_a_drained_server_refuses_new_requests_alone(known: bool) -> None:
    table = RequestTable()
    if known:
        send(table, request("new"), {"b": 1})
    table.drain(0.0)
    assert refused(table) is not known
