"""Positions of cuts that a profile measures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitioning.candidates import positions
from partitioning.graph import Graph
from tests.partitioning.graphs import chain, graphs


@given(graphs(), st.integers(1, 20))
def test_positions_lie_between_operations_and_are_few(graph: Graph, most: int) -> None:
    found = positions(graph, most)
    assert list(found) == sorted(set(found))
    assert len(found) <= most
    assert all(0 < at < len(graph.operations) for at in found)


def test_with_enough_positions_there_is_every_one() -> None:
    assert positions(chain(3, 1, 4, 1, 5), 4) == (1, 2, 3, 4)


def test_each_part_has_the_place_where_least_crosses() -> None:
    assert positions(chain(9, 2, 9, 9, 3, 9, 9), 2) == (2, 5)


@pytest.mark.parametrize("most", [1, 5])
def test_one_operation_has_none(most: int) -> None:
    assert positions(chain(3), most) == ()
