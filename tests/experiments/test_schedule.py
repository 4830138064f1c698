"""The schedule: every run of every cell once, in short blocks whose order is random, or one cell after the other."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.spec.flags import parse
from experiments.spec.schedule import BLOCK, blocks
from experiments.store.statistics import MIN_BLOCKS

ORDERS = ("shuffled", "blocked")
SPECS = sorted((Path(__file__).parents[2] / "experiments" / "specs").glob("*.toml"))


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


def test_shuffled_blocks_are_short_and_led_by_requests_that_do_not_count() -> None:
    made = list(blocks([1, 3], 60, "shuffled", 0))
    assert {len(block.runs) for block in made if block.cell == 0} == {BLOCK}
    assert {(len(block.runs), block.lead) for block in made if block.cell == 1} == {(3 * BLOCK, 3)}
    assert {block.lead for block in made if block.cell == 0} == {1}


@given(concurrency=st.lists(st.integers(1, 6), min_size=1, max_size=6), seed=st.integers(0, 99))
def test_shuffled_spreads_every_cell_over_the_whole(concurrency: list[int], seed: int) -> None:
    """However many blocks it has: in each tenth of all blocks a tenth of its own, give or take one block a cell."""
    made = [block.cell for block in blocks(concurrency, 240, "shuffled", seed)]
    for tenth in range(1, 10):
        begun = Counter(made[: len(made) * tenth // 10])
        for cell, count in Counter(made).items():
            assert abs(begun[cell] / count - tenth / 10) <= 1 / count + (len(concurrency) + 1) / len(made)


@pytest.mark.parametrize("order", ORDERS)
def test_each_of_several_nodes_is_led_to(order: str) -> None:
    """They take turns: as many requests that do not count for each of them."""
    assert {(block.cell, block.lead) for block in blocks([1, 3], 60, order, 0, replicas=2)} == {(0, 2), (1, 6)}
    assert next(blocks([3], 1, order, 0)).numbers == [-3, -2, -1, 0]


def test_the_seed_decides_the_order() -> None:
    orders = [[block.cell for block in blocks([1] * 5, 50, "shuffled", seed)] for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


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
    """One with a kill compares no means."""
    experiment, _ = parse(["--spec", str(spec)])
    concurrency = [cell.concurrency for cell in experiment.with_locals().cells]
    counted = Counter(block.cell for block in blocks(concurrency, experiment.runs, experiment.turns, 0))
    assert experiment.kill or min(counted.values()) >= MIN_BLOCKS
