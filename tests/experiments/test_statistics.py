"""The summary, against values by hand and from numpy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.spec.experiment import Cell, local_of
from experiments.store.samples import Sample, Writer, read
from experiments.store.statistics import COLUMNS, none_of, summarise
from tests.experiments.common import frame, rows

GRPC = Cell()
LOCAL = local_of(GRPC)
FIRST = [
    *("cell", "transport", "mode", "flow", "engine", "codec", "batch", "servers"),
    *("n", "mean", "std", "median", "p90", "p99"),
    *("ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none", "none_low", "none_high"),
]


def test_columns(tmp_path: Path) -> None:
    summary = summarise(frame(tmp_path, {LOCAL: [1.0]}), 0)
    assert list(summary.columns[: len(FIRST)]) == FIRST
    assert tuple(summary.columns) == COLUMNS


def test_by_hand(tmp_path: Path) -> None:
    none = none_of(GRPC)
    table = frame(tmp_path, {GRPC: [3.0, 5.0, 4.0, 8.0], LOCAL: [1.0, 2.0, 3.0, 2.0], none: [2.0, 3.0]})
    found = rows(summarise(table, 0))
    grpc, local = found[GRPC.name], found[LOCAL.name]
    assert (grpc["n"], grpc["mean"], grpc["median"]) == (4, 5.0, 4.5)
    assert grpc["std"] == pytest.approx(math.sqrt((4 + 0 + 1 + 9) / 3))  # n - 1
    assert grpc["p90"] == pytest.approx(5 + 0.7 * 3)
    assert grpc["p99"] == pytest.approx(5 + 0.97 * 3)
    assert grpc["ratio_to_local"] == 2.5
    assert grpc["ratio_to_none"] == 2.0
    assert (found[none.name]["ratio_to_none"], grpc["outside_seconds"]) == (1.0, 3.75)
    assert (local["ratio_to_local"], local["ratio_low"], local["ratio_high"]) == (1, 1, 1)
    assert found[none.name]["ratio_to_local"] == 1.25
    assert (grpc["messages"], grpc["payload_bytes"], grpc["lookups"], grpc["connects"]) == (1.5, 100, 1, 2)
    assert grpc["compute_share"] == 0.25
    assert grpc["deviation"] == pytest.approx(3e-9)


def test_the_local_model_has_no_partition(tmp_path: Path) -> None:
    """It has neither time outside the stages nor a ratio to None; a model in a model server has both."""
    served, remote = Cell("none", "whole", engine="tfserving", servers=1), Cell(mode="whole", servers=1)
    graph = local_of(served)
    found = rows(summarise(frame(tmp_path, {cell: [4.0] for cell in (LOCAL, graph, served, remote)}), 0))
    for local in (LOCAL, graph):
        for name in ("ratio_to_none", "none_low", "none_high", "outside_seconds"):
            assert math.isnan(found[local.name][name])
    for cell in (served, remote):
        assert (found[cell.name]["ratio_to_none"], found[cell.name]["outside_seconds"]) == (1.0, 3.0)


def test_without_compute_seconds_the_time_outside_the_stages_is_unknown(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        writer.append(Sample(GRPC, 0, 1.0, 0, compute_seconds=0.5))
        writer.append(Sample(GRPC, 1, 1.0, 0))
    assert math.isnan(rows(summarise(read(tmp_path), 0))[GRPC.name]["outside_seconds"])


def test_queue_seconds_are_a_mean_and_unknown_in_older_samples(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        for run, queue in enumerate([0.25, 0.75]):
            writer.append(Sample(GRPC, run, 1.0, 0, queue_seconds=queue, round=0))
        writer.append(Sample(LOCAL, 0, 1.0, 1))
    found = rows(summarise(read(tmp_path), 0))
    assert found[GRPC.name]["queue_seconds"] == 0.5
    assert math.isnan(found[LOCAL.name]["queue_seconds"])


def test_wire_bytes_are_a_median(tmp_path: Path) -> None:
    """Another program disturbed one request, one request has no figure, and the local model has no figures at all."""
    with Writer(tmp_path) as writer:
        for run, wire in enumerate([1000, 1004, 99_000, math.nan, 1002]):
            writer.append(Sample(GRPC, run, 1.0, 0, payload_bytes=900, wire_bytes=wire))
        writer.append(Sample(LOCAL, 0, 1.0, 1))
    found = rows(summarise(read(tmp_path), 0))
    assert found[GRPC.name]["wire_bytes"] == 1003
    assert math.isnan(found[LOCAL.name]["wire_bytes"])


def test_throughput_counts_the_time_of_blocks_only(tmp_path: Path) -> None:
    """Four requests, two in flight, in a block of 3 s; another block of 5 s. The time between blocks does not count."""
    starts = [10.0, 10.0, 11.0, 11.5, 100.0, 102.0]
    ends = [11.0, 11.5, 12.0, 13.0, 102.0, 105.0]
    blocks = [0, 0, 0, 0, 1, 1]
    with Writer(tmp_path) as writer:
        for run, (start, end, block) in enumerate(zip(starts, ends, blocks, strict=True)):
            writer.append(Sample(GRPC, run, end - start, block, start=start))
            writer.append(Sample(LOCAL, run, 1.0, 2 + block, start=float(run)))
    found = rows(summarise(read(tmp_path), 0))
    assert found[GRPC.name]["throughput"] == pytest.approx(6 / (3 + 5))
    assert found[GRPC.name]["throughput_to_local"] == pytest.approx(6 / 8 / 1.0)


def test_a_throughput_has_an_interval_over_blocks(tmp_path: Path) -> None:
    """Ten requests in each of six blocks, which took 5 or 10 s; each block of the local model took 20 s."""
    with Writer(tmp_path) as writer:
        for run in range(60):
            turn = run // 10
            step = 1 if turn % 2 else 0.5
            writer.append(Sample(GRPC, run, step, turn, start=100.0 * turn + step * (run % 10)))
            writer.append(Sample(LOCAL, run, 2.0, 50 + turn, start=100.0 * turn + 2 * (run % 10)))
    found = rows(summarise(read(tmp_path), 0))
    grpc, local = found[GRPC.name], found[LOCAL.name]
    assert grpc["throughput_to_local"] == pytest.approx(60 / 45 / 0.5)
    assert 2 <= grpc["throughput_low"] < 60 / 45 / 0.5 < grpc["throughput_high"] <= 4
    assert (local["throughput_to_local"], local["throughput_low"], local["throughput_high"]) == (1, 1, 1)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-6, 1e3), min_size=2, max_size=60))
def test_against_numpy(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    (row,) = rows(summarise(frame(tmp_path_factory.mktemp("numpy"), {LOCAL: values}), 0)).values()
    assert row["mean"] == pytest.approx(np.mean(values))
    assert row["std"] == pytest.approx(np.std(values, ddof=1))
    for name, level in (("median", 50), ("p90", 90), ("p99", 99)):
        assert row[name] == pytest.approx(np.percentile(values, level))


def test_unknown_figures_are_nan(tmp_path: Path) -> None:
    found = rows(summarise(frame(tmp_path, {GRPC: [1.0]}), 0))[GRPC.name]
    for name in ("std", "ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none"):
        assert math.isnan(found[name])
    (tmp_path / "both").mkdir()
    found = rows(summarise(frame(tmp_path / "both", {GRPC: [3.0], LOCAL: [1.0]}), 0))[GRPC.name]
    assert found["ratio_to_local"] == 3.0
    assert math.isnan(found["ratio_low"])
    assert summarise(read(tmp_path).iloc[:0], 0).empty


def test_each_ratio_uses_its_own_local_model(tmp_path: Path) -> None:
    cells = [Cell(batch=8), Cell(engine="graph"), Cell(engine="graph", batch=8)]
    seconds = {cell: [10.0 * (place + 1)] * 6 for place, cell in enumerate(cells)}
    seconds |= {local_of(cell): [1.0 + place] * 6 for place, cell in enumerate(cells)}
    found = rows(summarise(frame(tmp_path, seconds), 0))
    assert [found[cell.name]["ratio_to_local"] for cell in cells] == [10.0, 10.0, 10.0]


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (Cell(), Cell("none")),
        (Cell(codec="tensorproto", send="tensor"), Cell("none", send="tensor")),
        (Cell(mode="whole", servers=1), LOCAL),
        (Cell("none"), Cell("none")),
        (LOCAL, LOCAL),
    ],
)
def test_none_of(cell: Cell, expected: Cell) -> None:
    assert none_of(cell) == expected


def test_order_of_rows_is_that_of_the_specification(tmp_path: Path) -> None:
    cells = [Cell(mode="submodel"), Cell("rpyc"), Cell(), Cell("none"), LOCAL]
    summary = summarise(frame(tmp_path, {cell: [1.0] for cell in cells}), 0)
    assert [(row.transport, row.mode) for row in summary.itertuples()] == [
        ("none", "whole"),
        ("none", "layer"),
        ("rpyc", "layer"),
        ("grpc", "layer"),
        ("grpc", "submodel"),
    ]
