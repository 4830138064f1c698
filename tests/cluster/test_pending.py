"""Pending inputs: complete segments, repeated tensors, outputs that stay on the server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cluster.pending import PendingInputs, Ready, Values, cascade
from cluster.segments import Segment, segments_of
from partitioning.plan import Stage
from tests.cluster.plans import fork, placed
from transports.errors import MalformedMessage

STAGES = placed(fork(), [0, 0, 0, 0]).portion(0)
SEGMENTS = segments_of(STAGES, local_calls=False)


@pytest.fixture
def pending() -> PendingInputs:
    """Each stage is a segment."""
    return PendingInputs(SEGMENTS)


def names(ready: list[Ready]) -> list[str]:
    return [item.segment.name for item in ready]


def test_a_segment_is_ready_once_all_of_its_inputs_are_there(pending: PendingInputs) -> None:
    assert names(pending.put({"a": 1})) == ["b", "c"]
    assert names(pending.put({"b": 2})) == []
    (ready,) = pending.put({"c": 3})
    assert (ready.segment.name, ready.inputs) == ("join", {"a": 1, "b": 2, "c": 3})
    assert not pending.complete
    pending.put({"x": 0})
    assert pending.complete


def test_a_tensor_that_comes_twice_counts_once(pending: PendingInputs) -> None:
    assert names(pending.put({"a": 1})) == ["b", "c"]
    assert names(pending.put({"a": 1})) == []
    assert pending.put({"b": 2, "c": 3})[0].inputs == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize("other", [np.ones(2, np.float32), np.zeros(3, np.float32), np.zeros(2, np.int32)])
def test_a_tensor_that_comes_again_with_other_bytes_is_refused(
    pending: PendingInputs, other: np.ndarray[Any, Any]
) -> None:
    first = np.array([0.0, np.nan], np.float32)
    pending.put({"b": first})
    assert names(pending.put({"b": first.copy()})) == []
    with pytest.raises(MalformedMessage, match="tensor 'b' came twice for stage 'join', with other bytes"):
        pending.put({"b": other})
    assert pending.put({"a": 1, "c": 3})[-1].inputs["b"] is first


@pytest.mark.parametrize(
    ("stages", "arriving", "run"),
    [
        (STAGES, [{"x": "x"}], ["a", "b", "c", "join"]),
        (STAGES[2:], [{"a": "a"}, {"b": "b"}], ["c", "join"]),  # join waits for the server that has b
        (STAGES[2:], [{"b": "b"}, {"a": "a"}], ["c", "join"]),
    ],
    ids=["all here", "the join waits", "the join is first"],
)
def test_outputs_that_stay_on_the_server_complete_its_next_segments(
    stages: Sequence[Stage], arriving: list[Values], run: list[str]
) -> None:
    done: dict[str, str] = {}
    pending = PendingInputs(segments_of(stages, local_calls=True))

    def execute(segment: Segment, values: Values) -> Values:
        assert values.keys() == set(segment.inputs)
        for stage in segment.stages:
            values[stage.name] = done[stage.name] = f"{stage.name}({','.join(values[name] for name in stage.inputs)})"
        return {name: values[name] for name in segment.outputs}

    for tensors in arriving:
        cascade(pending.put, tensors, execute)
    assert list(done) == run
    a, b = ("a(x)", "b(a(x))") if "a" in run else ("a", "b")
    assert done["join"] == f"join({a},{b},c({a}))"
    assert pending.complete
