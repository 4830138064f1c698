"""The Pareto front of latency against throughput: dominance, ties, and what its section and picture say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from experiments.reports import report
from experiments.reports.labels import Settings
from experiments.reports.pareto import LABELLED, Point, draw, front, points_of, section, telling
from experiments.reports.sections import records
from experiments.spec.experiment import Cell, local_of
from experiments.store.files import PARETO
from experiments.store.samples import Sample, Writer, read

if TYPE_CHECKING:
    from pathlib import Path

    from tests.experiments.conftest import Maker


def points(*figures: tuple[float, float], transport: str = "tcp") -> list[Point]:
    """Points at these throughputs and medians, of cells that differ in their batch."""
    return [Point(Cell(transport, batch=n), x, y, 2 * y) for n, (x, y) in enumerate(figures, 1)]


FRONTS: Sequence[tuple[str, list[tuple[float, float]], list[int]]] = [
    ("one is better in both", [(1, 2), (2, 1)], [2]),
    ("each is better in one", [(1, 1), (2, 2)], [1, 2]),
    ("as fast, with more throughput", [(1, 1), (2, 1)], [2]),
    ("as much throughput, and faster", [(1, 2), (1, 1)], [2]),
    ("equal in both", [(1, 1), (1, 1), (0.5, 3)], [1, 2]),
    ("a staircase with three inside", [(1, 1), (3, 2), (2, 2), (4, 4), (3, 5), (1, 4)], [1, 2, 4]),
    ("a chain of better ones", [(1, 3), (2, 2), (3, 1)], [3]),
]


@pytest.mark.parametrize(("figures", "expected"), [case[1:] for case in FRONTS], ids=[case[0] for case in FRONTS])
def test_the_front_of_known_points(figures: list[tuple[float, float]], expected: list[int]) -> None:
    assert sorted(point.cell.batch for point in front(points(*figures))) == expected


def test_the_front_ascends() -> None:
    assert [point.throughput for point in front(points((4, 4), (1, 1), (3, 2)))] == [1, 3, 4]


def test_overloaded_cells_are_never_on_the_front() -> None:
    first, second = points((1, 1), (9, 9))
    assert front([first, replace(second, overloaded=True)]) == [first]


def test_references_are_on_the_front_only_among_themselves() -> None:
    local = Point(local_of(Cell()), 99, 0.1, 0.1)
    none, tcp = points((50, 0.5), transport="none"), points((1, 1))
    assert front([local, *none, *tcp]) == tcp
    assert front([local, *none]) == none
    assert front([local]) == []


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([Cell(batch=1), Cell(batch=8), Cell("tcp")], True),
        ([Cell(concurrency=2), Cell("tcp"), Cell("rpyc")], True),
        ([Cell(load="poisson:1/s"), Cell(load="poisson:2/s"), Cell(load="poisson:3/s")], True),
        ([Cell(), Cell("tcp"), Cell("rpyc")], False),  # throughput is 1 / latency
        ([Cell(batch=1), Cell(batch=8)], False),
        ([Cell(), Cell("tcp"), local_of(Cell(batch=8))], False),
    ],
)
def test_when_throughput_says_more_than_latency(cells: list[Cell], expected: bool) -> None:
    assert telling([Point(cell, 1, 1, 1) for cell in cells]) is expected


def measured(make_results: Maker) -> tuple[Path, list[Cell]]:
    """Three cells with different batches. The second has a lower throughput than the first, and a longer latency."""
    cells = [Cell("tcp"), Cell("grpc", batch=2), Cell("grpc", batch=8)]
    folder = make_results(cells, runs=0)
    (folder / "samples.csv").unlink()
    with Writer(folder) as writer:
        for place, (cell, seconds) in enumerate([(cells[0], 0.1), (cells[1], 0.25), (cells[2], 0.4)]):
            for run in range(25):
                start = 1000.0 * place + seconds * run
                writer.append(Sample(cell, run, seconds, place + 10 * (run // 5), start=start, round=run // 5))
    return folder, cells


def test_throughput_is_in_samples(make_results: Maker) -> None:
    folder, cells = measured(make_results)
    found = {point.cell: point for point in points_of(records(report.summary_of(read(folder), 0)))}
    assert [found[cell].throughput for cell in cells] == pytest.approx([10, 8, 20])
    assert [found[cell].median for cell in cells] == pytest.approx([0.1, 0.25, 0.4])


def test_the_section_has_the_front_and_a_picture_with_its_labels(make_results: Maker) -> None:
    folder, _ = measured(make_results)
    text = report.build(folder).read_text()
    assert "2 of 3 cells are on the Pareto front" in text
    assert [line for line in text.splitlines() if line.startswith(("| TCP, batch 1 ", "| gRPC, batch 8 "))]
    picture = (folder / PARETO).read_text()
    for words in ("1  TCP, batch 1", "2  gRPC, batch 8", "Pareto front (2)", "other cells (1)"):
        assert words in picture
    assert "gRPC, batch 2" not in picture
    assert "samples answered per second" in picture
    assert "median, and a line to p95" in picture


def test_without_starts_there_is_no_throughput_and_no_section(make_results: Maker) -> None:
    folder = make_results([Cell(), Cell(batch=8), Cell("rpyc")])
    summary = report.summary_of(read(folder), 0)
    assert summary["throughput"].map(math.isnan).all()
    assert section(summary, folder, {}) == []
    assert not (folder / PARETO).exists()


def test_a_long_front_labels_its_ends_and_some_between() -> None:
    many = points(*((float(place), float(place)) for place in range(1, 41)))
    picture = draw(many, Settings([point.cell for point in many]))
    assert f"{LABELLED}  TCP, batch 40" in picture
    assert "1  TCP, batch 1<" in picture
    assert picture.count("TCP, batch ") == LABELLED
    assert "Pareto front (40)" in picture
