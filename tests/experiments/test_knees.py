"""The knee of a sweep on invented servers, and what the report says of the knee and of late starts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from experiments.measure.answered import missed
from experiments.reports import report
from experiments.reports.loads import Loads
from experiments.reports.sections import records
from experiments.spec.experiment import Cell, local_of
from experiments.spec.schedule import Block
from experiments.store import environment
from experiments.store.files import LOAD, REPORT_HTML
from experiments.store.intervals import Blocks, product_interval, ratio_interval
from experiments.store.knees import Sweep, loads_of, sweeps_of, swept
from experiments.store.samples import Sample, Writer, read
from tests.experiments.test_html import answer_of, check

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

CAPACITY = 1000.0
ROUNDS, COUNT = 8, 400


@dataclass(frozen=True)
class Service:
    """A single server with random arrivals and service times (M/M/1): a request takes 1 / (capacity - rate) on average.

    At or above the capacity its latency grows with every request.
    """

    transport: str = "tcp"
    capacity: float = CAPACITY
    late: float = 0.0005
    rounds: int = ROUNDS
    kind: str = "poisson"

    def cell(self, fraction: float) -> Cell:
        return Cell(self.transport, load=f"{self.kind}:{fraction * self.capacity:g}/s")

    def seconds(self, fraction: float, rng: np.random.Generator) -> Sequence[float]:
        """The seconds of a block, with the mean and the distribution of M/M/1."""
        rate = fraction * self.capacity
        if fraction >= 1:
            lag = 1 / self.capacity - 1 / rate
            return [2 / self.capacity + lag * place for place in range(COUNT)]
        law = -np.log1p(-(np.arange(COUNT) + 0.5) / COUNT) / (self.capacity - rate)
        return [float(value) for value in rng.permutation(law)]


def write(folder: Path, service: Service, fractions: Sequence[float], first: int = 0) -> None:
    """Write the samples of a sweep to a folder that has no samples.csv yet."""
    rng = np.random.default_rng(0)
    with Writer(folder) as writer:
        for place, fraction in enumerate(fractions):
            _append(writer, service, fraction, rng, first + place)
        for run in range(service.rounds):
            writer.append(Sample(local_of(Cell()), run, 0.001, 10**6 + run, start=1e7 + run, round=run))


def _append(writer: Writer, service: Service, fraction: float, rng: np.random.Generator, place: int) -> None:
    cell, rate = service.cell(fraction), fraction * service.capacity
    for number in range(service.rounds):
        noise = 1 + 0.02 * rng.standard_normal()
        block = 1000 * place + number
        for run, seconds in enumerate(service.seconds(fraction, rng)):
            more = {"start": 1e4 * block + (run + 1) / rate, "round": number, "late_seconds": service.late}
            writer.append(Sample(cell, number * COUNT + run, seconds * noise, block, **more))


def sweep_of(folder: Path, service: Service, fractions: Sequence[float]) -> Sweep:
    write(folder, service, fractions)
    measured = read(folder)
    (found,) = sweeps_of(measured, loads_of(measured, records(report.summary_of(measured, 0))), 0)
    return found


def fractions_of(found: Sequence[object]) -> list[float]:
    return [round(each.rate / CAPACITY, 3) for each in found]  # type: ignore[attr-defined]


def test_the_knee_of_mm1_is_at_half_the_capacity(tmp_path: Path) -> None:
    """The power of M/M/1 is rate x (capacity - rate)."""
    found = sweep_of(tmp_path, Service(), [0.1, 0.3, 0.5, 0.7, 0.9])
    assert fractions_of([found.knee]) == [0.5]
    expected = [4 * fraction * (1 - fraction) for fraction in (0.1, 0.3, 0.5, 0.7, 0.9)]
    assert [ratio for ratio, _, _ in found.powers] == pytest.approx(expected, rel=0.1)
    assert all(low <= ratio <= high for ratio, low, high in found.powers)
    assert found.known
    assert found.ties == []
    assert found.highest is found.cells[-1]


def test_neighbours_on_both_sides_cannot_be_told_apart_from_each_other(tmp_path: Path) -> None:
    """M/M/1 has the same power at 0.48 and 0.52 of its capacity."""
    found = sweep_of(tmp_path, Service(), [0.2, 0.48, 0.52, 0.8])
    assert sorted(fractions_of([found.knee, *found.ties])) == [0.48, 0.52]


def test_too_few_rounds_have_no_intervals(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, Service(rounds=4), [0.2, 0.5, 0.8])
    assert not found.known
    assert found.ties == []
    assert fractions_of([found.knee]) == [0.5]


def test_the_highest_rate_held_is_below_the_overload(tmp_path: Path) -> None:
    found = sweep_of(tmp_path, Service(), [0.3, 0.5, 0.8, 1.2, 2.0])
    assert [each.overloaded for each in found.cells] == [False, False, False, True, True]
    assert found.highest is not None
    assert fractions_of([found.highest]) == [0.8]


def test_an_overloaded_rate_is_no_knee(tmp_path: Path) -> None:
    """If a queue grows only shortly before a block ends, the power can still be the highest."""
    found = sweep_of(tmp_path, Service(), [0.1, 0.2, 0.3, 1.2])
    growing = replace(found.cells[-1], power=2 * found.knee.power)
    assert growing.overloaded
    assert replace(found, cells=[*found.cells[:-1], growing]).knee is found.knee


def test_no_rate_was_held(tmp_path: Path) -> None:
    assert sweep_of(tmp_path, Service(), [1.2, 1.6, 2.0]).highest is None


def test_rates_that_miss_are_not_held(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        for number in range(ROUNDS):
            for run in range(20):
                cell = Cell(load="constant:10/s")
                writer.append(missed(cell, 20 * number + run, Block(number, number, 0, 1, range(0)), 1.0, run / 10, 0))
    measured = read(tmp_path)
    (only,) = loads_of(measured, records(report.summary_of(measured, 0)))
    assert (only.overloaded, only.held, only.power) == (True, False, 0.0)


def test_a_sweep_has_three_rates_of_one_configuration() -> None:
    rates = [Cell("tcp", load=f"poisson:{rate}/s") for rate in (10, 20, 30)]
    others = [Cell("tcp"), Cell("grpc", load="poisson:10/s"), Cell("tcp", load="constant:10/s")]
    assert swept([*rates, *others]) == {*rates}
    assert swept([*rates[:2], *others]) == set()


def test_an_interval_of_a_product_is_that_of_a_ratio_for_single_factors() -> None:
    rng = np.random.default_rng(0)
    above, below = (Blocks(rng.uniform(1, 2, 9), np.full(9, 3.0), np.arange(9.0)) for _ in range(2))
    assert product_interval([above], [below], np.random.default_rng(1)) == pytest.approx(
        ratio_interval(above, below, np.random.default_rng(1))
    )
    double = product_interval([above, above], [below, below], np.random.default_rng(1))
    assert double == pytest.approx([end**2 for end in ratio_interval(above, below, np.random.default_rng(1))])


@pytest.mark.parametrize("rounds", [None, np.arange(9.0) + 7])
def test_a_product_without_common_rounds_has_no_interval(rounds: np.ndarray | None) -> None:
    above, below = Blocks(np.ones(9), np.ones(9), np.arange(9.0)), Blocks(np.ones(9), np.ones(9), rounds)
    assert np.isnan(product_interval([above], [below], np.random.default_rng(0))).all()


def folder_of(make_results: Maker, services: Mapping[Service, Sequence[float]]) -> Path:
    """A results folder with a sweep of each service."""
    cells = [service.cell(fraction) for service, fractions in services.items() for fraction in fractions]
    folder = make_results(cells, runs=0)
    (folder / "samples.csv").unlink()
    rng = np.random.default_rng(0)
    with Writer(folder) as writer:
        for number, (service, fractions) in enumerate(services.items()):
            for place, fraction in enumerate(fractions):
                _append(writer, service, fraction, rng, 10 * number + place)
        for run in range(ROUNDS):
            writer.append(Sample(local_of(Cell()), run, 0.001, 10**6 + run, start=1e9 + run, round=run))
    return folder


SWEEPS = {Service(): [0.2, 0.5, 0.8, 1.2], Service("grpc", 500): [0.2, 0.5, 0.8, 1.2]}


def test_the_report_says_the_knee_in_words_a_table_and_a_picture(make_results: Maker) -> None:
    folder = folder_of(make_results, SWEEPS)
    text = report.build(folder).read_text()
    assert "- TCP: the knee is at 500 requests per second, with p50 1.39 and p95 6.01 ms" in text
    assert "- gRPC: the knee is at 250 requests per second" in text
    assert text.count("Its power is above that at every other rate beyond noise.") == 2
    assert "The highest rate held is 800 requests per second." in text
    assert len(re.findall(r"\| knee, held +\|", text)) == 2
    assert len(re.findall(r"\| overloaded +\|", text)) == 2
    assert "**OVERLOADED**" not in text  # the last rate of a sweep is meant to overload
    picture = (folder / LOAD).read_text()
    for words in (">TCP<", ">gRPC<", ">p50<", ">p95<", ">p99<", ">knee<", ">overloaded<", ">500/s<", ">250/s<"):
        assert words in picture
    assert "requests per second that begin" in picture
    page = (folder / REPORT_HTML).read_text()
    assert check(page)
    assert answer_of(page).startswith(
        "Answer The knee, the rate with the most goodput for its mean latency, is at 500 requests per second (p95 "
    )
    assert "up to 800 held) with TCP; at 250 requests per second" in answer_of(page)
    assert answer_of(page).count("with the local model") == 0


def test_the_same_samples_give_the_same_bytes(make_results: Maker) -> None:
    folder = folder_of(make_results, SWEEPS)
    report.build(folder)
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    report.build(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_other_cells_of_an_experiment_keep_their_tables_and_their_answer(tmp_path: Path, make_results: Maker) -> None:
    folder = make_results([Cell("grpc"), Cell("rpyc")])
    (folder / "samples.csv").rename(tmp_path / "closed.csv")
    cells = [Service().cell(fraction) for fraction in (0.2, 0.5, 0.8)]
    record = environment.read(folder)
    listed = [vars(cell) for cell in cells] + record["experiment"]["cells"]
    environment.update(folder, experiment=record["experiment"] | {"cells": listed})
    with Writer(folder) as writer:
        for place, fraction in enumerate((0.2, 0.5, 0.8)):
            _append(writer, Service(), fraction, np.random.default_rng(0), place)
    rows = (tmp_path / "closed.csv").read_text().splitlines(keepends=True)[1:]
    with (folder / "samples.csv").open("a") as file:
        file.writelines(rows)
    report.build(folder)
    said = answer_of((folder / REPORT_HTML).read_text())
    assert "The knee, the rate" in said
    assert "gRPC is the fastest of 2 cells with a transport" in said


def test_a_sweep_without_a_rate_held_tells_what_was_answered(make_results: Maker) -> None:
    text = report.build(folder_of(make_results, {Service(): [1.2, 1.6, 2.0]})).read_text()
    found = re.search(r"- TCP: the knee is below 1200 requests per second \(no rate was held: at most (\d+) ", text)
    assert found
    assert int(found[1]) <= CAPACITY


@pytest.mark.parametrize(
    ("fractions", "said"),
    [([0.5, 0.7, 0.9], "No lower rate was measured"), ([0.1, 0.2, 0.3], "No higher rate was measured")],
)
def test_a_knee_at_an_end_may_lie_outside(make_results: Maker, fractions: list[float], said: str) -> None:
    assert said in report.build(folder_of(make_results, {Service(): fractions})).read_text()


@pytest.mark.parametrize(("late", "warned"), [(0.0005, False), (0.0035, True)])
def test_how_late_requests_began(make_results: Maker, late: float, warned: bool) -> None:
    """The report says so for every cell under a load, also for cells in no sweep."""
    text = report.build(folder_of(make_results, {Service(late=late, kind="constant"): [0.2, 0.5]})).read_text()
    begin = f"In all cells, 99 % of the requests began at most {1e3 * late:.2f}".rstrip("0")
    assert begin in text
    assert ("That is more than 2 ms" in text) is warned
    assert "the knee is" not in text


def test_late_starts_of_overloaded_cells_are_left_to_the_table(make_results: Maker) -> None:
    late = {Service(): [0.2, 0.5], Service("grpc", late=0.9): [1.2, 2.0]}
    text = report.build(folder_of(make_results, late)).read_text()
    assert "In cells that are not overloaded, 99 % of the requests began at most 0.500 ms late" in text


def test_closed_loops_have_no_section(make_results: Maker) -> None:
    folder = make_results([Cell("grpc")])
    measured = read(folder)
    summary = report.summary_of(measured, 0)
    loads = Loads.of(measured, summary, {}, 0)
    assert (loads.section(folder), loads.answer()) == ([], [])
    assert loads.rest(summary).equals(summary)
    assert "## Load" not in report.build(folder).read_text()
