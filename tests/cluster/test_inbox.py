"""The inbox: complete stages, several requests, duplicates, eviction."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from cluster.inbox import Inbox
from partitioning.plan import Stage
from tests.cluster.plans import fork, partition
from transports.errors import MalformedMessage

FAR = float("inf")


def names(ready: list[Any]) -> list[str]:
    return [item.stage.name for item in ready]


def inbox() -> Inbox:
    return Inbox(partition(fork(), [0, 0, 0, 0]).portion(0))


def test_a_stage_is_given_out_once_all_of_its_inputs_are_there() -> None:
    box = inbox()
    assert names(box.put("r", FAR, {"a": 1})) == ["b", "c"]
    assert names(box.put("r", FAR, {"b": 2})) == []
    ready = box.put("r", FAR, {"c": 3})
    assert names(ready) == ["join"]
    assert ready[0].inputs == [1, 2, 3]


def test_requests_do_not_mix() -> None:
    box = inbox()
    for request, values in (("one", (1, 2)), ("two", (10, 20))):
        box.put(request, FAR, {"a": values[0], "b": values[1]})
    assert box.put("two", FAR, {"c": 30})[0].inputs == [10, 20, 30]
    assert box.put("one", FAR, {"c": 3})[0].inputs == [1, 2, 3]


def test_a_tensor_that_comes_twice_counts_once() -> None:
    box = inbox()
    assert names(box.put("r", FAR, {"a": 1})) == ["b", "c"]
    assert names(box.put("r", FAR, {"a": 1})) == []
    assert box.put("r", FAR, {"b": 2, "c": 3})[0].inputs == [1, 2, 3]


@pytest.mark.parametrize("other", [np.ones(2, np.float32), np.zeros(3, np.float32), np.zeros(2, np.int32)])
def test_a_tensor_that_comes_again_with_other_bytes_is_refused(other: np.ndarray[Any, Any]) -> None:
    box, first = inbox(), np.array([0.0, np.nan], np.float32)
    box.put("r", FAR, {"b": first})
    assert names(box.put("r", FAR, {"b": first.copy()})) == []
    with pytest.raises(MalformedMessage, match="tensor 'b' came twice for stage 'join', with other bytes"):
        box.put("r", FAR, {"b": other})
    assert box.put("r", FAR, {"a": 1, "c": 3})[-1].inputs[1] is first


def test_nothing_is_kept_of_a_request_that_is_complete() -> None:
    box = inbox()
    box.put("r", FAR, {"x": 0})
    assert len(box) == 1
    box.put("r", FAR, {"a": 1, "b": 2, "c": 3})
    assert len(box) == 0


def test_a_request_that_never_completes_is_evicted_at_its_deadline() -> None:
    now = [0.0]
    box = Inbox(partition(fork(), [0, 0, 0, 0]).portion(0), clock=lambda: now[0])
    for number in range(100):
        box.put(f"r{number}", now[0] + 5.0, {"b": number})
        now[0] += 1.0
    assert len(box) <= 6


@pytest.mark.parametrize(("local_calls", "run"), [(True, ["a", "b", "c", "join"]), (False, ["a"])])
def test_local_calls_run_what_follows_on_the_same_server(local_calls: bool, run: list[str]) -> None:
    def execute(stage: Stage, inputs: list[Any]) -> list[Any]:
        return [f"{stage.name}({','.join(inputs)})"]

    done = {
        stage.name: outputs
        for stage, outputs in inbox().cascade("r", FAR, {"x": "x"}, execute, local_calls=local_calls)
    }
    assert list(done) == run
    if local_calls:
        assert done["join"] == {"join": "join(a(x),b(a(x)),c(a(x)))"}


def test_inputs_from_many_threads_complete_each_request_once() -> None:
    box, given = inbox(), []

    def put(tensor: str) -> None:
        for number in range(300):
            given.extend(
                (number, item.stage.name, tuple(item.inputs)) for item in box.put(f"r{number}", FAR, {tensor: number})
            )

    threads = [threading.Thread(target=put, args=(tensor,)) for tensor in ("a", "b", "c", "x")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    joins = [(number, inputs) for number, stage, inputs in given if stage == "join"]
    assert sorted(joins) == [(number, (number, number, number)) for number in range(300)]
    assert len(box) == 0
