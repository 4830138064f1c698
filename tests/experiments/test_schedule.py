"""The schedule: rounds of short blocks in shuffled order, or one cell after the other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.spec.flags import parse
from experiments.spec.load import rates
from experiments.spec.schedule import blocks, longest
from experiments.store.intervals import MIN_BLOCKS
from tests.experiments.common import SPECS

ORDERS = ("shuffled", "blocked")


@given(
    concurrency=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    runs=st.integers(1, 70),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 99),
)
def test_every_run_of_every_cell_is_timed_once(concurrency: list[int], runs: int, order: str, seed: int) -> None:
    made = list(blocks(concurrency, runs, order, seed))
    timed = Counter((block.cell, run) for block in made for run in block.runs)
    assert timed == Counter((cell, run) for cell in range(len(concurrency)) for run in range(runs))
    assert [block.number for block in made] == list(range(len(made)))


def test_blocks_are_short_and_start_with_requests_that_do_not_count() -> None:
    made = list(blocks([1, 1], 50, "shuffled", 0))
    assert {(len(block.runs), block.lead) for block in made} == {(5, 1)}
    made = list(blocks([1, 3], 60, "shuffled", 0))
    assert {(block.cell, len(block.runs), block.lead) for block in made} == {(0, 30, 1), (1, 30, 3)}


@given(
    concurrency=st.lists(st.integers(1, 6), min_size=1, max_size=6), runs=st.integers(1, 400), seed=st.integers(0, 99)
)
def test_each_cell_has_one_block_per_round(concurrency: list[int], runs: int, seed: int) -> None:
    """Drift then affects all cells alike. The blocks of all cells have nearly the same number of requests."""
    made = list(blocks(concurrency, runs, "shuffled", seed))
    cells = list(range(len(concurrency)))
    for number in range(made[-1].round + 1):
        of_round = made[number * len(cells) : (number + 1) * len(cells)]
        assert {block.round for block in of_round} == {number}
        assert sorted(block.cell for block in of_round) == cells
        assert len({block.runs for block in of_round}) == 1
    lengths = {len(block.runs) for block in made}
    assert 1 <= max(lengths) <= longest(max(concurrency))
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize("order", ORDERS)
def test_uncounted_requests_reach_each_replica(order: str) -> None:
    """Replicas take turns, so each replica gets the same number of uncounted requests."""
    assert {(block.cell, block.lead) for block in blocks([1, 3], 60, order, 0, replicas=2)} == {(0, 2), (1, 6)}
    assert next(blocks([3], 1, order, 0)).numbers == [-3, -2, -1, 0]


def test_the_seed_decides_the_order_which_differs_between_rounds() -> None:
    orders = [[block.cell for block in blocks([1] * 5, 50, "shuffled", seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert orders[0][:5] != orders[0][5:10]


def test_blocked_is_one_cell_after_the_other() -> None:
    assert [(block.cell, len(block.runs), block.lead) for block in blocks([1, 1], 50, "blocked", 0)] == [
        (0, 50, 1),
        (1, 50, 1),
    ]


@pytest.mark.parametrize("order", ORDERS)
def test_a_last_block_may_be_shorter(order: str) -> None:
    assert sum(len(block.runs) for block in blocks([1], 23, order, 0)) == 23


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.stem)
def test_every_cell_of_a_comparison_has_the_blocks_of_an_interval(spec: Path) -> None:
    """Experiments with a kill are exempt, since they compare no means."""
    experiment, _ = parse(["--spec", str(spec)])
    concurrency = [cell.concurrency for cell in experiment.with_locals().cells]
    order = concurrency, experiment.runs, experiment.turns, 0
    counted = Counter(block.cell for block in blocks(*order, rates=rates(experiment.cells)))
    assert experiment.kill or min(counted.values()) >= MIN_BLOCKS
