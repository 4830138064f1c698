"""The number of workers that nested calls need, compared with values found by hand for small plans."""

from __future__ import annotations

import pytest

from cluster.workers import workers_needed
from partitioning.graph import Graph
from tests.cluster.plans import chain, fork, placed

CASES = {
    "one server calls itself directly": (chain(6), [0] * 6, True, 1),
    "one server calls itself over the wire": (chain(6), [0] * 6, False, 6),
    "neighbours together": (chain(6), [0, 0, 1, 1, 2, 2], True, 1),
    "neighbours together, over the wire": (chain(6), [0, 0, 1, 1, 2, 2], False, 2),
    "neighbours apart": (chain(6), [0, 1, 2, 0, 1, 2], True, 2),
    "two servers, back and forth": (chain(7), [0, 1, 0, 1, 0, 1, 0], True, 4),
    "a fork that comes back": (fork(), [0, 1, 2, 0], True, 2),
    "a fork on one server, over the wire": (fork(), [0, 0, 0, 0], False, 3),
    "a thousand deep": (chain(1500), [0, 1] * 750, True, 750),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("send", ["bundle", "tensor"])
def test_workers_needed(case: str, send: str) -> None:
    graph, placement, local_calls, expected = CASES[case]
    assert isinstance(graph, Graph)
    assert workers_needed(placed(graph, placement), local_calls=local_calls, send=send) == expected
