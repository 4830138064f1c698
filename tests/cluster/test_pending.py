"""Pending inputs: complete stages, repeated tensors, local calls."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster.pending import PendingInputs, Ready, cascade, consumers_of
from partitioning.plan import Stage
from tests.cluster.plans import fork, placed
from transports.errors import MalformedMessage

STAGES = placed(fork(), [0, 0, 0, 0]).portion(0)
CONSUMERS = consumers_of(STAGES)


@pytest.fixture
def pending() -> PendingInputs:
    return PendingInputs(CONSUMERS, len(STAGES))


def names(ready: list[Ready]) -> list[str]:
    return [item.stage.name for item in ready]


def test_a_stage_is_ready_once_all_of_its_inputs_are_there(pending: PendingInputs) -> None:
    assert names(pending.put({"a": 1})) == ["b", "c"]
    assert names(pending.put({"b": 2})) == []
    (ready,) = pending.put({"c": 3})
    assert (ready.stage.name, ready.inputs) == ("join", [1, 2, 3])
    assert not pending.complete
    pending.put({"x": 0})
    assert pending.complete


def test_a_tensor_that_comes_twice_counts_once(pending: PendingInputs) -> None:
    assert names(pending.put({"a": 1})) == ["b", "c"]
    assert names(pending.put({"a": 1})) == []
    assert pending.put({"b": 2, "c": 3})[0].inputs == [1, 2, 3]


@pytest.mark.parametrize("other", [np.ones(2, np.float32), np.zeros(3, np.float32), np.zeros(2, np.int32)])
def test_a_tensor_that_comes_again_with_other_bytes_is_refused(
    pending: PendingInputs, other: np.ndarray[Any, Any]
) -> None:
    first = np.array([0.0, np.nan], np.float32)
    pending.put({"b": first})
    assert names(pending.put({"b": first.copy()})) == []
    with pytest.raises(MalformedMessage, match="tensor 'b' came twice for stage 'join', with other bytes"):
        pending.put({"b": other})
    assert pending.put({"a": 1, "c": 3})[-1].inputs[1] is first


@pytest.mark.parametrize(("local_calls", "run"), [(True, ["a", "b", "c", "join"]), (False, ["a"])])
def test_local_calls_run_the_next_stages_on_the_same_server(
    pending: PendingInputs, local_calls: bool, run: list[str]
) -> None:
    done: dict[str, str] = {}

    def execute(stage: Stage, inputs: list[Any]) -> list[Any]:
        done[stage.name] = f"{stage.name}({','.join(inputs)})"
        return [done[stage.name]]

    cascade(pending.put, CONSUMERS, {"x": "x"}, execute, local_calls=local_calls)
    assert list(done) == run
    assert done.get("join", "join(a(x),b(a(x)),c(a(x)))") == "join(a(x),b(a(x)),c(a(x)))"
