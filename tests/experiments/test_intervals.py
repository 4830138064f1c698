"""95 % intervals of ratios: reproducibility, size, and coverage of simulated and of recorded noise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from experiments.spec.experiment import Cell, local_of
from experiments.store.intervals import Blocks, ratio_interval, seconds_of
from experiments.store.samples import Sample, Writer, read
from experiments.store.statistics import none_of, summarise
from tests.experiments.common import REFERENCE, frame, rows

GRPC = Cell()
LOCAL = local_of(GRPC)


def noisy(seed: int, size: int = 50) -> list[float]:
    return list(np.random.default_rng(seed).lognormal(0, 0.2, size))


def test_the_same_samples_and_seed_give_the_same_interval(tmp_path: Path) -> None:
    table = frame(tmp_path, {GRPC: noisy(1), LOCAL: noisy(2), Cell("rpyc"): noisy(3)})
    first = summarise(table, 7)
    pd.testing.assert_frame_equal(first, summarise(table.sample(frac=1, random_state=1), 7), rtol=1e-12)
    without = summarise(table[table["transport"] != "rpyc"], 7)
    assert rows(without)[GRPC.name]["ratio_low"] == rows(first)[GRPC.name]["ratio_low"]
    assert rows(summarise(table, 8))[GRPC.name]["ratio_low"] != rows(first)[GRPC.name]["ratio_low"]


def test_the_interval_does_not_depend_on_the_unit(tmp_path: Path) -> None:
    table = frame(tmp_path, {GRPC: noisy(1), LOCAL: noisy(2)})
    scaled = table.assign(seconds=table["seconds"] * 1000)
    one, other = (rows(summarise(each, 0))[GRPC.name] for each in (table, scaled))
    for name in ("ratio_to_local", "ratio_low", "ratio_high"):
        assert one[name] == pytest.approx(other[name])


@pytest.mark.parametrize(("block", "there"), [(10, True), (12, True), (13, False), (50, False)])
def test_five_blocks_make_an_interval(tmp_path: Path, block: int, there: bool) -> None:
    found = rows(summarise(frame(tmp_path, {GRPC: noisy(1), LOCAL: noisy(2), none_of(GRPC): noisy(3)}, block), 0))
    for name in ("ratio_low", "ratio_high", "none_low", "none_high"):
        assert math.isnan(found[GRPC.name][name]) is not there
    assert found[GRPC.name]["ratio_to_local"] == pytest.approx(np.mean(noisy(1)) / np.mean(noisy(2)))


def test_a_cell_of_few_blocks_leaves_the_intervals_of_others(tmp_path: Path) -> None:
    """Eighty requests with four in flight are two blocks; the local model has eight."""
    crowded = Cell(concurrency=4)
    with Writer(tmp_path) as writer:
        for cell, block in ((LOCAL, 10), (GRPC, 10), (crowded, 40)):
            for run, seconds in enumerate(noisy(4, 80)):
                writer.append(Sample(cell, run, seconds, run // block))
    found = rows(summarise(read(tmp_path), 0))
    assert math.isnan(found[crowded.name]["ratio_low"])
    assert found[GRPC.name]["ratio_low"] < 1 < found[GRPC.name]["ratio_high"]


def test_an_interval_of_many_blocks_agrees_with_the_delta_method(tmp_path: Path) -> None:
    above, below = np.array(noisy(1, 2000)), np.array(noisy(2, 2000))
    table = frame(tmp_path, {GRPC: list(above), LOCAL: list(below)}, block=1)
    found = rows(summarise(table, 0))[GRPC.name]
    ratio = above.mean() / below.mean()
    error = ratio * math.sqrt(sum(x.var(ddof=1) / len(x) / x.mean() ** 2 for x in (above, below)))
    assert found["ratio_low"] == pytest.approx(ratio - 1.96 * error, abs=0.1 * error)
    assert found["ratio_high"] == pytest.approx(ratio + 1.96 * error, abs=0.1 * error)


def _units(rng: np.random.Generator, mean: float, blocks: int, shared: float, apart: bool) -> Blocks:
    """Ten samples per block. Each sample has noise of its own, and the samples of a block share further noise.

    `apart`: each sample counts as a block.
    """
    level = 1 + shared * rng.standard_normal((blocks, 1))
    seconds = mean * (level + 0.05 * rng.standard_normal((blocks, 10)))
    number = np.arange(blocks * 10) if apart else np.repeat(np.arange(blocks), 10)
    return seconds_of(pd.DataFrame({"seconds": seconds.ravel(), "block": number, "round": math.nan}))


def _coverage(blocks: int, below: int, shared: float, apart: bool = False, times: int = 150) -> float:
    """The share of intervals, of a cell with `blocks` over one with `below` blocks, that contain the true ratio."""
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(times):
        cell, local = (_units(rng, *what, shared, apart) for what in ((2.5, blocks), (1.0, below)))
        low, high = ratio_interval(cell, local, rng)
        hits += low <= 2.5 <= high
    return hits / times


@pytest.mark.parametrize(("blocks", "below"), [(5, 5), (10, 10), (6, 24), (5, 50)])
@pytest.mark.parametrize("shared", [0.0, 0.1])
def test_nineteen_of_twenty_intervals_contain_the_true_ratio(blocks: int, below: int, shared: float) -> None:
    """150 experiments: the standard error of the share is 1.8 %. Wider intervals are fine."""
    assert 0.9 <= _coverage(blocks, below, shared) <= 1


def test_resampling_single_requests_of_correlated_blocks_covers_too_little() -> None:
    assert _coverage(10, 10, 0.1, apart=True, times=60) < 0.7
    assert 0.88 <= _coverage(10, 10, 0.0, apart=True, times=60) <= 1


def drifting(seed: int, size: int = 50) -> npt.NDArray[np.float64]:
    """Noise around a level that grows by a half over the run, as on a machine that slows down."""
    return np.array(noisy(seed, size)) * np.linspace(1, 1.5, size)


def test_rounds_are_paired_so_that_drift_does_not_widen_the_interval(tmp_path: Path) -> None:
    seconds = {GRPC: list(2 * drifting(1)), LOCAL: list(drifting(2))}
    widths = {}
    for rounds in (True, False):
        (tmp_path / str(rounds)).mkdir()
        found = rows(summarise(frame(tmp_path / str(rounds), seconds, block=5, rounds=rounds), 0))[GRPC.name]
        widths[rounds] = found["ratio_high"] - found["ratio_low"]
        assert found["ratio_low"] < 2 < found["ratio_high"]
    assert widths[True] < 0.75 * widths[False]


def test_without_noise_within_a_round_a_paired_interval_has_no_width() -> None:
    levels = np.array([1.0, 3.0, 2.0, 5.0, 4.0])
    above, below = (Blocks(factor * 10 * levels, np.full(5, 10.0), np.arange(5.0)) for factor in (1.7, 1.0))
    assert ratio_interval(above, below, np.random.default_rng(0)) == pytest.approx((1.7, 1.7))


def test_only_common_rounds_are_paired() -> None:
    """An interrupted run has measured some cells in one round more than other cells."""
    levels = np.array([1.0, 3.0, 2.0, 5.0, 4.0, 9.0])
    above = Blocks(2 * levels, np.ones(6), np.arange(6.0))
    below = Blocks(levels[:5], np.ones(5), np.arange(5.0))
    assert ratio_interval(above, below, np.random.default_rng(0)) == pytest.approx((2, 2))
    short = Blocks(levels[:4], np.ones(4), np.arange(4.0))
    assert np.isnan(ratio_interval(above, short, np.random.default_rng(0))).all()


def recorded() -> list[npt.NDArray[np.float64]]:
    """For every cell of the reference results, its seconds in the order of their start, divided by their mean."""
    found = []
    for path in sorted(REFERENCE.glob("*/plan-whole.json")):
        if not (path.parent / "faults.csv").exists():
            samples = read(path.parent)
            alone = samples[samples["concurrency"] == 1].sort_values("start")
            found += [group.to_numpy() / group.mean() for _, group in alone.groupby("cell")["seconds"]]
    return found


@pytest.mark.parametrize("rounds", [5, 10])
def test_intervals_over_recorded_noise_contain_one_when_a_cell_is_compared_with_itself(rounds: int) -> None:
    """An A/A experiment, 500 times: in each round two neighbouring blocks of one cell, in random order."""
    rng, series = np.random.default_rng(7), recorded()
    hits = 0
    for _ in range(500):
        seconds = series[rng.integers(len(series))]
        starts = rng.integers(len(seconds) - 9, size=rounds)
        blocks = np.array([[seconds[s : s + 5].sum(), seconds[s + 5 : s + 10].sum()] for s in starts])
        first = rng.integers(2, size=rounds)
        places = np.arange(rounds)
        sums = blocks[places, first], blocks[places, 1 - first]
        one, other = (Blocks(each, np.full(rounds, 5.0), places.astype(float)) for each in sums)
        low, high = ratio_interval(one, other, rng)
        hits += low <= 1 <= high
    assert len(series) > 50
    assert hits / 500 >= 0.93
