"""The comparison of two runs: verdicts, their order, false positives, and the statistics behind the verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import ttest_ind_from_stats

from experiments.compare.compare import FASTER, SAME, SLOWER, TOO_FEW, compare, holm, welch
from experiments.store import intervals, samples
from experiments.store.intervals import Blocks, LogRatio, log_ratio
from tests.experiments.common import REFERENCE
from tests.experiments.comparing import GRPC, LEVELS, LOCAL, NONE, RPYC, UNIX, Noisy, levels_of, outcome
from tests.experiments.conftest import Maker


@pytest.fixture
def write(make_results: Maker) -> Noisy:
    return Noisy(make_results)


def test_a_cell_that_became_slower_is_found_and_the_others_are_not(write: Noisy) -> None:
    slow = LEVELS | {GRPC: 1.2 * LEVELS[GRPC]}
    found = outcome(write("a", 1), write("b", 2, slow))
    first, *others = found.comparison.changes
    assert (first.cell, first.verdict, first.rounds) == (GRPC, SLOWER, (12, 12))
    assert first.low < 1.2 < first.high
    assert first.p <= first.corrected < 0.001
    assert {each.verdict for each in others} == {SAME}
    assert found.summary().startswith("1 of 4 cells differs: gRPC is ")
    assert found.summary().endswith(" % slower.")
    (back, *_) = outcome(write("c", 2, slow), write("d", 1)).comparison.changes
    assert (back.cell, back.verdict) == (GRPC, FASTER)
    assert back.change == pytest.approx(1 / first.change)


def test_a_machine_that_is_slower_as_a_whole_changes_no_cell(write: Noisy) -> None:
    found = outcome(write("a", 1), write("b", 2, {cell: 2 * level for cell, level in LEVELS.items()})).comparison
    assert {each.verdict for each in found.changes} == {SAME}
    assert found.locals[LOCAL][1] / found.locals[LOCAL][0] == pytest.approx(2, rel=0.1)


def test_a_folder_and_itself_do_not_differ(write: Noisy) -> None:
    folder = write("a", 1)
    found = outcome(folder, folder)
    assert all((each.change, each.p, each.verdict) == (1, 1, SAME) for each in found.comparison.changes)
    assert found.summary() == "None of 4 cells differs beyond noise."
    assert not found.notes
    assert not found.mentioned


@pytest.mark.parametrize("name", ["same-cell", "tuned-submodel"])
def test_a_reference_result_and_itself_do_not_differ(name: str) -> None:
    found = outcome(REFERENCE / name, REFERENCE / name).comparison
    assert {(each.change, each.verdict) for each in found.changes} == {(1, SAME)}


def test_the_most_changed_cells_come_first(write: Noisy) -> None:
    b = LEVELS | {NONE: 0.12 * 1.5, GRPC: 0.25 / 3, RPYC: 0.45 * 2}
    found = outcome(write("a", 1), write("b", 2, b)).comparison.changes
    assert [each.cell for each in found] == [GRPC, RPYC, NONE, UNIX]
    assert [each.verdict for each in found] == [FASTER, SLOWER, SLOWER, SAME]


def test_few_rounds_have_no_verdict(write: Noisy) -> None:
    found = outcome(write("a", 1), write("b", 2, rounds=4))
    assert {(each.verdict, each.rounds) for each in found.comparison.changes} == {(TOO_FEW, (12, 4))}
    assert all(math.isnan(each.low) and math.isnan(each.corrected) for each in found.comparison.changes)
    assert "None of 4 cells differs beyond noise. 4 of them have too few rounds for a verdict." in found.summary()


def test_a_cell_without_its_local_model_has_no_verdict(write: Noisy) -> None:
    measured = samples.read(write("a", 1))
    without = measured[measured["cell"] != LOCAL.name]
    assert {each.verdict for each in compare(measured, without).changes} == {TOO_FEW}


def test_older_folders_without_rounds_are_compared_by_blocks(write: Noisy) -> None:
    slow = LEVELS | {GRPC: 1.5 * LEVELS[GRPC]}
    first, *others = outcome(
        write("a", 1, numbered=False), write("b", 2, slow, numbered=False, rounds=20)
    ).comparison.changes
    assert (first.cell, first.verdict, first.rounds) == (GRPC, SLOWER, (12, 20))
    assert {each.verdict for each in others} == {SAME}


def a_run(rng: np.random.Generator, rounds: int, cells: int) -> list[Blocks]:
    """The blocks of a local model and of `cells` cells, in rounds on a machine whose speed drifts."""
    state, count = np.array(levels_of(rng, rounds)), np.full(rounds, 5.0)
    numbers = np.arange(rounds, dtype=np.float64)
    return [
        Blocks(5 * (1 + place) * state * np.exp(0.03 * rng.standard_normal(rounds)), count, numbers)
        for place in range(cells + 1)
    ]


@pytest.mark.parametrize("rounds", [5, 12])
def test_one_comparison_in_twenty_finds_a_difference_where_there_is_none(
    rounds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six cells in each of 200 pairs of equal runs: 10 false alarms are expected, 20 or more once in 500 times."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1000)
    families = uncorrected = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        a, b = (a_run(rng, rounds, 6) for _ in range(2))
        tests = [
            welch(log_ratio(here, a[0], rng), log_ratio(there, b[0], rng))[3]
            for here, there in zip(a[1:], b[1:], strict=True)
        ]
        families += min(holm(tests)) < 0.05
        uncorrected += min(tests) < 0.05
    assert families < 20
    assert uncorrected > 25  # false alarms without the correction


def test_holm_multiplies_the_smallest_by_the_number_of_tests() -> None:
    assert holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1, 1]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_leaves_out_what_is_no_test() -> None:
    missing, small, large = holm([math.nan, 0.01, 0.5])
    assert math.isnan(missing)
    assert (small, large) == (0.02, 0.5)


def test_the_interval_is_that_of_welch() -> None:
    """Equal errors and sizes: 2 (n - 1) degrees of freedom, here 18, whose t is 2.1009. SciPy's test agrees on p."""
    change, low, high, p = welch(LogRatio(0, 0.01, 10), LogRatio(0.05, 0.01, 10))
    assert change == pytest.approx(math.exp(0.05))
    assert math.log(high / change) == pytest.approx(2.1009 * 0.01 * math.sqrt(2), rel=1e-4)
    assert math.log(change / low) == pytest.approx(math.log(high / change))
    deviations = 0.01 * math.sqrt(10), 0.03 * math.sqrt(7)
    assert p == pytest.approx(ttest_ind_from_stats(0, deviations[0], 10, 0.05, deviations[0], 10, False).pvalue)
    unequal = ttest_ind_from_stats(0, deviations[0], 10, 0.05, deviations[1], 7, False).pvalue
    assert welch(LogRatio(0, 0.01, 10), LogRatio(0.05, 0.03, 7))[3] == pytest.approx(unequal)


def test_without_any_noise_every_change_is_one() -> None:
    assert welch(LogRatio(0.5, 0, 10), LogRatio(0.5, 0, 10)) == (1, 1, 1, 1)
    assert welch(LogRatio(0, 0, 10), LogRatio(1, 0, 10))[3] == 0


def test_the_logarithm_agrees_with_the_interval_of_one_run() -> None:
    cell, local = a_run(np.random.default_rng(3), 12, 1)[::-1]
    found = log_ratio(cell, local, np.random.default_rng(0))
    low, high = intervals.ratio_interval(cell, local, np.random.default_rng(0))
    assert math.exp(found.value - 2.2010 * found.error) == pytest.approx(low, rel=1e-5)
    assert math.exp(found.value + 2.2010 * found.error) == pytest.approx(high, rel=1e-5)
