"""Strategies: groups, refusals with a hint, and optimal balance."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.spec.experiment import SETTINGS
from partitioning.errors import PartitionError
from partitioning.graph import Graph, Operation, TensorInfo
from partitioning.order import alive, narrow_order
from partitioning.placement import ALIASES, PLACEMENTS
from partitioning.plan import build_plan, cut_table
from partitioning.strategies import at_cuts, balanced, equal, layer, make_plan, whole
from partitioning.strategy_table import SLACKS
from tests.partitioning.graphs import chain, graphs


@st.composite
def tasks(draw: st.DrawFn) -> tuple[Graph, int, dict[str, float]]:
    """A small graph, a number of groups, and costs, some of them zero."""
    graph = draw(graphs(most=8))
    cost = st.sampled_from([0.0, 1.0, 2.0, 5.0]) | st.floats(0.01, 9.0)
    return graph, draw(st.integers(1, len(graph.operations))), {op.name: draw(cost) for op in graph.operations}


def _bottleneck(graph: Graph, numbers: Sequence[int], costs: Mapping[str, float]) -> float:
    sums = dict.fromkeys(numbers, 0.0)
    for operation, number in zip(graph.operations, numbers, strict=True):
        sums[number] += costs[operation.name]
    return max(sums.values())


def _sent(graph: Graph, numbers: Sequence[int]) -> tuple[int, int]:
    """Bytes and number of the tensors that stages take; a tensor counts once for each stage that takes it."""
    plan = build_plan(graph, numbers, "submodel")
    return sum(cut.nbytes for cut in cut_table(plan)), sum(len(edge.consumers) for edge in plan.edges.values())


def _all_partitions(size: int, n: int) -> list[tuple[int, ...]]:
    choices = itertools.combinations(range(1, size), n - 1)
    return [tuple(sum(index >= cut for cut in cuts) for index in range(size)) for cuts in choices]


@pytest.mark.parametrize("slack", [*SLACKS.values(), 1.3])
@given(task=tasks())
def test_balanced_is_the_best_of_all_partitions(slack: float, task: tuple[Graph, int, dict[str, float]]) -> None:
    graph, n, costs = task
    every = _all_partitions(len(graph.operations), n)
    smallest = min(_bottleneck(graph, numbers, costs) for numbers in every)
    limit = max(smallest, slack * sum(costs.values()) / n) * (1 + 1e-8)
    allowed = [numbers for numbers in every if _bottleneck(graph, numbers, costs) <= limit]
    numbers = balanced(graph, n, costs, slack)
    assert numbers in allowed
    assert _sent(graph, numbers) == min(_sent(graph, other) for other in allowed)


def test_balanced_chooses_a_narrow_cut_within_the_slack() -> None:
    graph = chain(9, 9, 9, 9, 1, 9, 9, 9, 9, 9)
    costs = dict.fromkeys((operation.name for operation in graph.operations), 1.0)
    assert balanced(graph, 2, costs, 1.3) == (0,) * 5 + (1,) * 5
    graph = chain(9, 9, 9, 9, 9, 1, 9, 9, 9, 9)
    assert balanced(graph, 2, costs, 1.3) == (0,) * 6 + (1,) * 4
    graph = chain(9, 9, 9, 9, 9, 9, 1, 9, 9, 9)
    assert max(balanced(graph, 2, costs, 1.3).count(number) for number in (0, 1)) <= 6


def test_narrow_allows_less_even_groups_for_fewer_bytes() -> None:
    graph = chain(9, 9, 9, 9, 9, 9, 1, 9, 9, 9)
    costs = dict.fromkeys((operation.name for operation in graph.operations), 1.0)
    stages = {cut: make_plan(graph, "submodel", cut, 2, costs).stages for cut in SLACKS}
    assert [len(stage.operations) for stage in stages["balanced"]] == [5, 5]
    assert [len(stage.operations) for stage in stages["narrow"]] == [7, 3]


@pytest.mark.parametrize("n", [1, 5, 100, 400, 800])
def test_balanced_is_fast_enough_for_nasnet(n: int) -> None:
    graph = chain(*[1 + index * 7919 % 97 for index in range(800)])
    costs = {operation.name: 1.0 + index % 13 for index, operation in enumerate(graph.operations)}
    begin = time.process_time()
    assert len(set(balanced(graph, n, costs))) == n
    assert time.process_time() - begin < 20


@given(graphs(), st.data())
def test_equal_groups_differ_by_one_at_most(graph: Graph, data: st.DataObject) -> None:
    n = data.draw(st.integers(1, len(graph.operations)))
    numbers = equal(graph, n)
    sizes = [numbers.count(number) for number in range(n)]
    assert list(numbers) == sorted(numbers)
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 1


def test_named_cuts_begin_groups_in_any_order() -> None:
    graph = chain(1, 1, 1, 1)
    assert at_cuts(graph, ["o1", "o3"]) == at_cuts(graph, ["o3", "o1"]) == (0, 1, 1, 2)
    assert make_plan(graph, "submodel", "o1 + o3").stages[1].operations == ("o1", "o2")


def _named(*names: str) -> Graph:
    """A chain of operations of these names."""
    tensors = {name: TensorInfo(name, (None, 1), "float32") for name in ("x", *names)}
    pairs = itertools.pairwise(("x", *names))
    return Graph(
        tuple(Operation(name, "Op", (before,), (name,)) for before, name in pairs), tensors, ("x",), names[-1:]
    )


@pytest.mark.parametrize(
    ("cut", "starts"),
    [
        ("deeplab.v3+", ["deeplab.v3+"]),
        ("deeplab.v3++conv 1", ["deeplab.v3+", "conv 1"]),
        ("conv 1, a,b", ["conv 1", "a,b"]),
        ("conv 1+c+d", ["conv 1", "c+d"]),
    ],
)
def test_names_in_a_cut_may_contain_separators(cut: str, starts: list[str]) -> None:
    plan = make_plan(_named("first", "deeplab.v3+", "conv 1", "a,b", "c+d"), "submodel", cut)
    assert [stage.operations[0] for stage in plan.stages[1:]] == starts


def test_an_ambiguous_cut_is_refused() -> None:
    with pytest.raises(
        PartitionError, match=r"the cut 'a\+b' is ambiguous: .*'a\+b'.* or .*'a', 'b'.*; rename a layer"
    ):
        make_plan(_named("first", "a", "b", "a+b"), "submodel", "a+b")


@given(graphs())
def test_the_order_stays_runnable(graph: Graph) -> None:
    order = narrow_order(graph.operations, graph.tensors)
    ready = set(graph.inputs)
    for operation in order:
        assert ready.issuperset(operation.inputs)
        ready.update(operation.outputs)
    assert sorted(op.name for op in order) == sorted(op.name for op in graph.operations)
    assert sum(alive(order, graph.tensors)) <= sum(alive(graph.operations, graph.tensors))


@pytest.mark.parametrize("name", PLACEMENTS)
def test_every_placement_places_every_stage(name: str) -> None:
    for size, servers in [(7, 5), (5, 5), (1, 1), (40, 3)]:
        graph = chain(*[1] * size)
        placement = PLACEMENTS[name](build_plan(graph, layer(graph), "layer"), servers)
        assert set(placement) == {operation.name for operation in graph.operations}
        assert set(placement.values()) == set(range(servers))


def test_older_names_of_placements_are_replaced_by_the_new_ones() -> None:
    assert set(ALIASES.values()) <= set(PLACEMENTS)
    given = "striped,contiguous,block-cyclic"
    assert SETTINGS["placement"].values(given, "--placement") == ("block-cyclic", "contiguous")


REFUSED: dict[str, tuple[Callable[[Graph], Any], str]] = {
    "too many groups": (lambda graph: equal(graph, 5), "5 groups of 4 operations: valid are 1 to 4"),
    "too many balanced": (lambda graph: balanced(graph, 5, {}), "5 groups of 4 operations"),
    "no groups": (lambda graph: equal(graph, 0), "0 groups of 4 operations"),
    "unknown cut": (lambda graph: at_cuts(graph, ["o33"]), "no operation 'o33' to cut before; did you mean 'o3'"),
    "how to list": (lambda graph: at_cuts(graph, ["zebra"]), "partitioning.show --mode layer` lists them"),
    "first": (lambda graph: at_cuts(graph, ["o0"]), "'o0' is the first operation: cut before a later one"),
    "twice": (lambda graph: at_cuts(graph, ["o1", "o1"]), "the same cut is named twice: o1, o1"),
    "unknown mode": (lambda graph: make_plan(graph, "layers"), "no mode 'layers'; did you mean 'layer'"),
    "no costs": (lambda graph: make_plan(graph, "submodel", "balanced", 2), "needs the cost of every operation"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_name_valid_values(case: str) -> None:
    call, reason = REFUSED[case]
    with pytest.raises(PartitionError) as caught:
        call(chain(1, 1, 1, 1))
    assert reason in str(caught.value)


def test_make_plan_accepts_every_mode() -> None:
    graph = chain(1, 1, 1, 1)
    costs = dict.fromkeys(["o0", "o1", "o2", "o3"], 1.0)
    assert len(make_plan(graph, "whole").stages) == len(set(whole(graph))) == 1
    assert len(make_plan(graph, "layer").stages) == 4
    assert len(make_plan(graph, "submodel", "equal", 2).stages) == 2
    assert len(make_plan(graph, "submodel", "balanced", 3, costs).stages) == 3
