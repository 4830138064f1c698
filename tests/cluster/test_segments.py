"""Segments: which stages of a server run in a row."""

from __future__ import annotations

from cluster.segments import segments_of
from tests.cluster.plans import chain, fork, placed


def test_stages_that_need_the_same_tensors_of_other_servers_are_one_segment() -> None:
    stages = placed(fork(), [0, 1, 0, 0]).portion(0)
    first, join = segments_of(stages, local_calls=True).all
    assert ([stage.name for stage in first.stages], first.inputs) == (["a", "c"], ("x",))
    assert set(first.outputs) == {"a", "c"}
    assert ([stage.name for stage in join.stages], join.outputs) == (["join"], ())
    assert join.inputs == ("a", "b", "c")
    assert segments_of(stages, local_calls=True).joining
    assert not segments_of(stages[:2], local_calls=True).joining


def test_a_chain_on_one_server_is_one_segment() -> None:
    (segment,) = segments_of(placed(chain(5), [0] * 5).portion(0), local_calls=True).all
    assert ([stage.name for stage in segment.stages], segment.inputs, segment.outputs) == (
        ["a0", "a1", "a2", "a3", "a4"],
        ("x",),
        (),
    )


def test_without_local_calls_each_stage_is_a_segment() -> None:
    stages = placed(fork(), [0, 0, 0, 0]).portion(0)
    segments = segments_of(stages, local_calls=False).all
    assert [segment.stages for segment in segments] == [(stage,) for stage in stages]
    assert all(not segment.outputs and segment.inputs == segment.stages[0].inputs for segment in segments)
