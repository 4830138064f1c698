"""Plans: derived completely, refused if they could not run, and unchanged by a round trip through JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.plan import Plan, PlanError, build_plan, cut_table, sent_bytes
from partitioning.strategies import equal, layer, whole
from tests.partitioning.graphs import chain, graphs


@st.composite
def plans(draw: st.DrawFn) -> tuple[Graph, Plan]:
    graph = draw(graphs())
    groups = draw(st.integers(1, len(graph.operations)))
    return graph, build_plan(graph, equal(graph, groups), "submodel")


@given(plans())
def test_every_operation_is_in_one_stage(pair: tuple[Graph, Plan]) -> None:
    graph, plan = pair
    names = [name for stage in plan.stages for name in stage.operations]
    assert names == [operation.name for operation in graph.operations]


@given(plans())
def test_edges_are_complete(pair: tuple[Graph, Plan]) -> None:
    """A stage takes all tensors that its operations need and do not make, and sends all that other stages need."""
    graph, plan = pair
    operations = {operation.name: operation for operation in graph.operations}
    for stage in plan.stages:
        inside = [operations[name] for name in stage.operations]
        made = {tensor for operation in inside for tensor in operation.outputs}
        needed = {tensor for operation in inside for tensor in operation.inputs}
        elsewhere = {tensor for other in plan.stages if other != stage for tensor in other.inputs}
        assert set(stage.inputs) == needed - made
        assert set(stage.outputs) == made & (elsewhere | set(graph.outputs))
        assert all(stage.name in plan.edges[tensor].consumers for tensor in stage.inputs)
        assert all(plan.edges[tensor].producer == stage.name for tensor in stage.outputs)


@given(plans())
def test_json_round_trip(pair: tuple[Graph, Plan]) -> None:
    _, plan = pair
    assert Plan.from_json(plan.to_json()) == plan


@given(plans())
def test_cut_table_lists_every_edge_once(pair: tuple[Graph, Plan]) -> None:
    _, plan = pair
    table = cut_table(plan)
    assert sorted(edge.name for cut in table for edge in cut.edges) == sorted(plan.edges)
    sent = sum(plan.edges[tensor].nbytes for stage in plan.stages for tensor in stage.inputs)
    assert sum(cut.nbytes for cut in table) == sent
    assert sent_bytes(plan) == sent - table[0].nbytes


def test_the_stages_of_the_modes_whole_and_layer() -> None:
    graph = chain(1, 2, 3)
    assert [stage.name for stage in build_plan(graph, layer(graph), "layer").stages] == ["o0", "o1", "o2"]
    only = build_plan(graph, whole(graph), "whole").stages
    assert [(stage.inputs, stage.outputs) for stage in only] == [(("x",), ("o2",))]


def _info(*names: str) -> dict[str, TensorInfo]:
    return {name: TensorInfo(name, (None, 2), "float32") for name in names}


def _two_stages(change: Callable[[dict[str, Any]], object]) -> str:
    """A plan of two stages as JSON, after `change`."""
    graph = chain(1, 2, 3)
    record = json.loads(build_plan(graph, [0, 0, 1], "submodel").to_json())
    change(record)
    return json.dumps(record)


UNUSABLE: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "missing producer": (lambda plan: plan["stages"].pop(0), "'stage-1' needs tensor 'o1', which no stage makes"),
    "wrong order": (lambda plan: plan["stages"].reverse(), "which only stage 'stage-0' makes, later or in a cycle"),
    "unused output": (lambda plan: plan["stages"].pop(), "output 'o2' is made by no stage"),
    "output that no stage takes": (
        lambda plan: plan["stages"][0]["outputs"].append("o0"),
        "no stage takes tensor 'o0' of stage 'stage-0'",
    ),
    "two makers": (lambda plan: plan["stages"][1]["outputs"].append("o1"), "makes tensor 'o1', which exists already"),
    "same name": (lambda plan: plan["stages"][1].update(name="stage-0"), "two stages are called 'stage-0'"),
    "same operation": (lambda plan: plan["stages"][1]["operations"].append("o0"), "'o0' is in stage 'stage-0' and in"),
    "no input": (lambda plan: plan["stages"][0].update(inputs=[]), "'stage-0' takes no tensor"),
    "no output": (lambda plan: plan["stages"][1].update(outputs=[]), "output 'o2' is made by no stage"),
    "input as output": (lambda plan: plan.update(outputs=["x"]), "output 'x' is also its input"),
    "false consumer": (
        lambda plan: plan["edges"]["o1"].update(consumers=[]),
        "edge of tensor 'o1' contradicts the stages",
    ),
    "missing edge": (lambda plan: plan["edges"].pop("o1"), "edge of tensor 'o1' contradicts the stages"),
    "edge of another tensor": (lambda plan: plan["edges"]["o1"].update(name="o2"), "edge of tensor 'o1' contradicts"),
    "unused edge": (lambda plan: plan["edges"].update(z=plan["edges"]["o1"]), "edge of tensor 'z' belongs to no stage"),
    "unknown dtype": (
        lambda plan: plan["edges"]["o1"].update(dtype="string"),
        "'o1' has the dtype 'string'; valid: bool",
    ),
    "negative extent": (lambda plan: plan["edges"]["o1"].update(shape=[-1]), "'o1' has the shape (-1,)"),
    "number for a name": (lambda plan: plan["stages"][0].update(name=3), "this is no plan: Expected `str`"),
    "text for a list": (lambda plan: plan["stages"][0].update(inputs="x"), "this is no plan: Expected `array`"),
    "missing field": (lambda plan: plan.pop("stages"), "this is no plan: Object missing required field `stages`"),
    "unknown field": (
        lambda plan: plan["stages"][0].update(colour=1),
        "this is no plan: Object contains unknown field `colour`",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_plan_that_cannot_run_is_refused(case: str) -> None:
    change, reason = UNUSABLE[case]
    with pytest.raises(PlanError, match="^.*" + re.escape(reason)):
        Plan.from_json(_two_stages(change))


def test_text_that_is_no_plan_is_refused() -> None:
    for text in ("", "{", "[]", "null", '"plan"', '{"wires": 3}', "[" * 99999):
        with pytest.raises(PlanError, match="this is no plan"):
            Plan.from_json(text)


def test_a_cycle_between_stages_is_refused() -> None:
    with pytest.raises(PlanError, match="stage 'stage-0' needs tensor 'o1', which only stage 'stage-1' makes"):
        build_plan(chain(1, 1, 1), [0, 1, 0], "submodel")


def test_an_output_that_is_an_input_is_refused() -> None:
    graph = Graph((Operation("a", "Op", ("x",), ("a",)),), _info("x", "a"), ("x",), ("a", "x"))
    with pytest.raises(PlanError, match="output 'x' is also its input"):
        build_plan(graph, [0], "whole")


def test_stage_numbers_must_be_complete() -> None:
    with pytest.raises(PlanError, match="2 stage numbers for 3 operations"):
        build_plan(chain(1, 1, 1), [0, 0], "submodel")
