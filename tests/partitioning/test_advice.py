"""`partitioning.advice` against brute force over all placed cuts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from partitioning.advice import GOALS, Candidate, Question, advise
from partitioning.changes import BANDWIDTHS, DELAYS, changes
from partitioning.cost_model import CostModel, Placed
from partitioning.graph import Graph
from partitioning.part_costs import CostError, Path
from tests.partitioning.costs import model_of
from tests.partitioning.graphs import chain, graphs


def all_placed(model: CostModel, question: Question) -> Iterator[Placed]:
    for count in range(question.least, min(question.servers, len(model.devices)) + 1):
        for order in itertools.permutations(model.devices, count):
            for cuts in itertools.combinations(range(1, len(model.graph.operations)), count - 1):
                for name in model.transports:
                    yield Placed(order, cuts, name)


def meets(model: CostModel, question: Question, item: Candidate) -> bool:
    first = item.placed.cuts[0] if item.placed.cuts else len(model.graph.operations)
    stays = not question.keep_first or (item.placed.hosts[0] == model.client and first >= question.keep_first)
    fits = all(
        not model.devices[host].memory or size <= model.devices[host].memory for host, size in item.cost.memory.items()
    )
    return stays and fits and (not question.deadline or item.cost.seconds.value <= question.deadline)


def brute(model: CostModel, question: Question) -> list[Candidate]:
    found = [Candidate(placed, model.predict(placed)) for placed in all_placed(model, question)]
    return sorted((item for item in found if meets(model, question, item)), key=lambda item: item.value(question.goal))


sizes = st.lists(st.integers(1, 2000), min_size=2, max_size=8)


@given(
    sizes,
    st.integers(0, 10**6),
    st.sampled_from(GOALS),
    st.integers(1, 4),
    st.sampled_from((0.0, 0.25)),
    st.sampled_from((0, 1500)),
    st.integers(0, 2),
)
def test_the_best_of_a_chain_are_those_of_brute_force(
    elements: list[int], seed: int, goal: str, servers: int, share: float, memory: int, keep: int
) -> None:
    model = model_of(chain(*elements), seed, hosts=4, share=share, memory=memory)
    question = Question(goal, servers, keep_first=keep, top=3)
    expected = brute(model, question)
    if not expected:
        with pytest.raises(CostError):
            advise(model, question)
        return
    found = advise(model, question)
    values = [item.value(goal)[0] for item in found.ranked]
    assert values == pytest.approx([item.value(goal)[0] for item in expected[:3]])
    assert found.bound <= values[0] * (1 + 1e-9)
    assert all(meets(model, question, item) for item in found.ranked)


@given(graphs(most=8), st.integers(0, 10**6), st.sampled_from(GOALS))
def test_two_way_cuts_of_any_graph_are_those_of_brute_force(graph: Graph, seed: int, goal: str) -> None:
    model, question = model_of(graph, seed, hosts=3), Question(goal, 2, top=1)
    assert advise(model, question).best.value(goal) == pytest.approx(brute(model, question)[0].value(goal))


@given(graphs(most=7), st.integers(0, 10**6), st.sampled_from(GOALS))
def test_the_bound_holds_where_the_graph_is_no_chain(graph: Graph, seed: int, goal: str) -> None:
    model, question = model_of(graph, seed, hosts=3), Question(goal, 3)
    found = advise(model, question)
    least = brute(model, question)[0].value(goal)[0]
    assert found.bound <= least * (1 + 1e-9)
    assert found.best.value(goal)[0] >= least * (1 - 1e-9)


def test_none_and_either_side_are_among_the_candidates() -> None:
    found = advise(model_of(chain(3, 5), 0), Question())
    assert {item.placed.hosts for item in found.pool} == {("h0",), ("h1",), ("h0", "h1"), ("h1", "h0")}


@given(sizes, st.integers(0, 10**6), st.sampled_from(GOALS))
def test_at_a_change_another_cut_is_the_best(elements: list[int], seed: int, goal: str) -> None:
    model = model_of(chain(*elements), seed)
    path = Path(0.01, 1e6)
    alike = CostModel(**{**vars_of(model), "paths": dict.fromkeys(model.paths, path)})
    advice = advise(alike, Question(goal))
    for name, values in (("bandwidth", BANDWIDTHS), ("delay", DELAYS)):
        for change in changes(advice, goal, path, name, values):
            if change is None:
                continue
            there = Path(**{**vars(path), name: change.at})
            again = advise(CostModel(**{**vars_of(model), "paths": dict.fromkeys(model.paths, there)}), Question(goal))
            assert again.best.value(goal)[0] == pytest.approx(change.then.cost.over(there)[GOALS.index(goal)], rel=1e-6)
            assert (change.then.placed.hosts, change.then.placed.cuts) != (
                advice.best.placed.hosts,
                advice.best.placed.cuts,
            )


def vars_of(model: CostModel) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}


ONE = model_of(chain(3), 0)


@pytest.mark.parametrize(
    ("model", "question", "reason"),
    [
        (ONE, Question(least=2), "a model of 1 operations has no cut into 2 groups"),
        (model_of(chain(3, 5), 0), Question(deadline=1e-9), "no cut answers within 1e-09 s; the fastest takes"),
        (model_of(chain(3, 5), 0, memory=1), Question(), "no cut fits into the memory of the hosts"),
        (model_of(chain(3, 5), 0), Question(keep_first=3), "3 operations stay, and the model has 2"),
        (model_of(chain(3, 5, 1), 0), Question(least=3), "3 groups need as many hosts"),
        (
            model_of(chain(3, 5), 0),
            Question(keep_first=1, orders=(("h1",),)),
            "the hosts, the groups and the operations that stay contradict",
        ),
    ],
)
def test_constraints_that_nothing_meets_are_named(model: CostModel, question: Question, reason: str) -> None:
    with pytest.raises(CostError, match=reason):
        advise(model, question)


def test_without_a_host_of_the_client_nothing_can_stay_there() -> None:
    model = CostModel(**{**vars_of(model_of(chain(3, 5), 0)), "client": ""})
    with pytest.raises(CostError, match="set client = true"):
        advise(model, Question(keep_first=1))


def test_a_model_of_one_operation_is_placed_whole() -> None:
    assert all(not item.placed.cuts for item in advise(ONE, Question()).pool)
    assert changed(ONE.graph, outputs=("o0",)) == ONE.graph
