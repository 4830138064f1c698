"""The messages of a request, derived from its plan alone, equal the measured ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.partition import Partition
from experiments.simulate.measured import Results
from experiments.simulate.walk import WALKS, Step, steps_of
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.plan import build_plan
from tests.experiments.common import REFERENCE

FOLDERS = [path for path in sorted(REFERENCE.iterdir()) if list(path.glob("plan-*.json"))]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda path: path.name)
def test_the_steps_are_the_messages_and_bytes_that_were_measured(folder: Path) -> None:
    """Every cell of the reference results that can be simulated: all flows, placements and ways to send."""
    results = Results.read(folder)
    for cell in results.fitting:
        run = results.run(cell)
        steps = run.steps
        assert steps.messages == run.requests["messages"].median()
        assert steps.payload == run.requests["payload_bytes"].median()
        assert sum(len(step.stages) for step in steps.all) >= cell.servers


def diamond() -> Partition:
    """x -> a -> (b, c) -> d -> y; d also takes x itself. Each stage is on a server of its own."""
    tensors = {
        name: TensorInfo(name, (None, size), "float32") for name, size in zip("xpqrsy", range(1, 7), strict=True)
    }
    operations = (
        Operation("a", "Layer", ("x",), ("p", "s")),
        Operation("b", "Layer", ("p",), ("q",)),
        Operation("c", "Layer", ("p",), ("r",)),
        Operation("d", "Layer", ("q", "r", "s", "x"), ("y",)),
    )
    plan = build_plan(Graph(operations, tensors, ("x",), ("y",)), range(4), "submodel")
    return Partition("submodel", plan, {stage.name: place for place, stage in enumerate(plan.stages)}, ())


def walked(flow: str, send: str = "bundle", batch: int = 1) -> tuple[list[Step], tuple[int, ...]]:
    steps = steps_of(diamond(), flow, local_calls=True, send=send, batch=batch)
    return list(steps.all), steps.roots


@pytest.mark.parametrize("flow", WALKS)
def test_every_stage_of_a_branch_is_executed_once(flow: str) -> None:
    steps, _ = walked(flow)
    names = [stage.operations[0] for step in steps for stage in step.stages]
    assert sorted(names) == ["a", "b", "c", "d"]


def test_in_nested_a_message_without_all_inputs_starts_nothing() -> None:
    steps, roots = walked("nested")
    servers = [(step.server, len(step.stages)) for step in steps]
    # a, b, d (lacks r, s and x), c, d (lacks s and x), d with s (lacks x); then x itself, which starts d
    assert servers == [(0, 1), (1, 1), (3, 0), (2, 1), (3, 0), (3, 0), (3, 1)]
    assert roots == (0, 6)
    assert steps[0].sends == (1, 3, 5)
    assert [step.back for step in steps] == [0] * 6 + [4 * 6]


def test_in_hub_the_client_sends_everything() -> None:
    steps, roots = walked("hub", batch=2)
    assert roots == tuple(range(len(steps)))
    assert all(not step.sends for step in steps)
    assert steps[0].back == 2 * 4 * (2 + 5)  # p and s


def test_in_forward_the_last_message_waits_for_the_others() -> None:
    steps, roots = walked("forward")
    last = next(step for step in steps if step.result is not None)
    assert (last.server, last.result) == (3, 4 * 6)
    assert {steps[number].server for number in last.after} == {3}
    assert len(last.after) == sum(step.server == 3 for step in steps) - 1
    assert len(roots) == 2


def test_one_message_for_each_tensor() -> None:
    bundled, single = (walked("hub", send)[0] for send in ("bundle", "tensor"))
    assert len(single) > len(bundled) - 1
    assert sum(step.there for step in single) == sum(step.there for step in bundled)


def test_bytes_that_no_plan_knows_are_those_that_were_measured() -> None:
    """For extents that a model leaves open, and for packed tensors, the bytes of all steps are scaled in proportion."""
    steps = steps_of(diamond(), "forward", local_calls=True, send="bundle", batch=1)
    assert steps.scaled(steps.payload) is steps
    doubled = steps.scaled(2 * steps.payload)
    assert doubled.payload == 2 * steps.payload
    assert [step.there for step in doubled.all] == [2 * step.there for step in steps.all]
