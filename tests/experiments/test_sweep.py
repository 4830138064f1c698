"""`--load poisson:auto`: which rates replace it, how a capacity is found, and a run over real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from experiments.measure.calibration import LASTING, capacity_of, find
from experiments.reports import report
from experiments.spec import sweep
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.flags import parse
from experiments.spec.load import IN_FLIGHT, in_flight
from experiments.spec.schedule import Block
from experiments.spec.settings import from_record, to_record
from experiments.spec.sweep import FRACTIONS, Capacity
from experiments.store import environment
from experiments.store.files import LOAD, REPORT, REPORT_HTML, SUMMARY
from experiments.store.loaded import SERVED
from experiments.store.samples import Sample, read
from tests.running import Run, assert_gone, below

if TYPE_CHECKING:
    from experiments.measure.runner import CellRunner
    from tests.experiments.conftest import Maker

AUTO = Cell("tcp", load="poisson:auto")


def test_rates_are_fixed_fractions_with_three_digits() -> None:
    assert Capacity(123.456, 8, 99).rates() == [37, 61.7, 74.1, 86.4, 98.8, 111, 123, 148]
    assert list(FRACTIONS) == sorted(FRACTIONS)
    assert 0.5 in FRACTIONS  # the knee of M/M/1
    assert FRACTIONS[-1] * SERVED > 1  # overload


@pytest.mark.parametrize(("capacity", "least", "most"), [(1e-4, 0.001, 0.001), (1e7, 100_000, 100_000)])
def test_rates_stay_within_the_range_of_loads(capacity: float, least: float, most: float) -> None:
    rates = Capacity(capacity, 8, 99).rates()
    assert (rates[0], rates[-1]) == (least, most)


def test_each_cell_is_replaced_in_its_place_by_cells_with_rates() -> None:
    closed, other = Cell("grpc"), replace(AUTO, flow="forward")
    experiment = Experiment((closed, AUTO, other), runs=30)
    capacities = {AUTO: Capacity(100, 8, 99), other: Capacity(10, 8, 99)}
    cells = sweep.expanded(experiment, capacities).cells
    assert [cell.load for cell in cells] == [
        "",
        *(f"poisson:{100 * fraction:g}/s" for fraction in FRACTIONS),
        *(f"poisson:{10 * fraction:g}/s" for fraction in FRACTIONS),
    ]
    assert {replace(cell, load=AUTO.load) for cell in cells[1:9]} == {AUTO}
    assert {replace(cell, load=AUTO.load) for cell in cells[9:]} == {other}
    assert sweep.record(AUTO, capacities[AUTO]) == {
        "asked": "poisson:auto",
        "cell": AUTO.name,
        "capacity": 100,
        "in_flight": 8,
        "requests": 99,
        "fractions": list(FRACTIONS),
        "cells": [cell.name for cell in cells[1:9]],
    }


def test_labels_traces_and_kinds_of_load_share_a_capacity() -> None:
    words = ["--transport", "tcp", "--load", "poisson:auto,constant:auto", "--label", "a,b", "--trace", "off,on"]
    cells = parse(words)[0].cells
    assert len(cells) == 8
    assert len({sweep.closed(cell, 8) for cell in cells}) == 1
    assert sweep.closed(AUTO, 8) == Cell("tcp", concurrency=8)


def test_requests_in_flight_double_from_two_for_each_server() -> None:
    assert sweep.levels(replace(AUTO, servers=5), 1) == [10, 20, 40, 80, 160]
    assert sweep.levels(replace(AUTO, servers=1), 1) == [4, 8, 16, 32, 64, 128, 256]
    assert sweep.levels(replace(AUTO, servers=64), 8) == [IN_FLIGHT]
    assert in_flight(AUTO, Experiment((AUTO,))) == IN_FLIGHT  # no level and no rate needs more


def test_a_record_keeps_what_was_asked() -> None:
    assert AUTO.name.endswith("/load=poisson:auto")
    assert from_record(to_record(Experiment((AUTO,)))) == Experiment((AUTO,))


def test_how_long_a_sweep_takes_and_whether_it_has_intervals() -> None:
    cells = tuple(replace(AUTO, load=f"poisson:{rate}/s") for rate in (50, 100))
    assert sweep.announced(Experiment(cells, runs=401)).endswith("401 requests of each take about 12 s")
    assert sweep.announced(Experiment(cells, runs=400)).endswith("intervals need 5 rounds, which --runs 401 gives")
    assert "intervals" not in sweep.announced(Experiment(cells, runs=400, order="blocked"))


@dataclass
class Server:
    """Answers like a server of `cores` equal cores. Each core takes one request at a time, for `seconds`.

    Takes the place of a calibration's `CellRunner`, with a simulated clock.
    """

    seconds: float
    cores: int
    prepared: Any
    blocks: list[tuple[int, int]] = field(default_factory=list)
    """(requests in flight, number of requests) of each block."""
    warm: int = 0

    def warm_up(self, cell: Cell) -> None:
        self.warm += 1

    def measure(self, block: Block, keep: Callable[[Sample], None]) -> None:
        cell = self.prepared.experiment.cells[block.cell]
        self.blocks.append((cell.concurrency, len(block.runs)))
        clients, cores = [0.0] * cell.concurrency, [0.0] * self.cores
        for number in block.numbers:
            start, free = min(clients), min(cores)
            end = max(start, free) + self.seconds
            clients[clients.index(start)], cores[cores.index(free)] = end, end
            if number >= 0:
                keep(Sample(cell, number, end - start, 0, start=start))


def capacity(cores: int, seconds: float = 0.01, limit: float = 0.0) -> tuple[Server, Capacity]:
    cells = [sweep.closed(AUTO, level) for level in sweep.levels(replace(AUTO, servers=2), 1)]
    server = Server(seconds, cores, Experimental(Experiment(tuple(cells), limit=limit)))
    until = -1.0 if limit else float("inf")
    return server, find(cast("CellRunner", server), cells, lambda text: None, until)


@dataclass(frozen=True)
class Experimental:
    experiment: Experiment


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_the_capacity_of_a_simulated_server(cores: int) -> None:
    server, found = capacity(cores)
    assert found.per_second == pytest.approx(cores / 0.01, rel=0.12)
    assert found.in_flight >= cores
    assert server.warm == 1


def test_requests_in_flight_double_while_they_raise_the_rate() -> None:
    """The server answers forty requests at once as soon as one: only with forty in flight are all cores busy."""
    server, found = capacity(40)
    assert [level for level, _ in server.blocks] == [4, 8, 16, 32, 64, 128]
    assert found.in_flight in (64, 128)
    assert found.per_second == pytest.approx(4000, rel=0.12)
    assert server.blocks[0] == (4, 16)
    assert server.blocks[-1][1] >= LASTING * 3000


def test_a_limit_ends_the_doubling() -> None:
    server, found = capacity(40, limit=1.0)
    assert [level for level, _ in server.blocks] == [4]
    assert found.in_flight == 4


def test_half_of_what_is_under_way_at_the_first_start_counts() -> None:
    samples = [Sample(AUTO, run, 0.5, 0, start=10 + 0.1 * run) for run in range(16)]
    assert capacity_of(samples, 5) == pytest.approx((16 + 2) / 2.0)
    assert capacity_of(samples, 1) == pytest.approx(16 / 2.0)


def test_a_run_that_ends_before_its_rates_are_known_still_has_a_report(make_results: Maker) -> None:
    folder = make_results([AUTO], runs=0, complete=False, failure="node-1 ended")
    assert "No request was timed" in report.build(folder).read_text()


@pytest.mark.slow
def test_a_sweep_over_real_processes(model: Path, tmp_path: Path) -> None:
    """The rates are in the record, and every derived file is derived from the samples alone."""
    out = tmp_path / "out"
    words = ("--mode", "submodel", "--servers", 2, "--engine", "frozen", "--transport", "none,tcp", "--runs", 40)
    with Run("--model", model, *words, "--load", "poisson:auto", "--limit", 120, "--out", out) as run:
        assert run.finish()[0] == 0, run.lines[-3:]
    lines = "".join(run.lines)
    assert lines.count("answers per second with") == 2
    record = environment.read(out)
    none, tcp = record["calibration"]
    assert [(each["asked"], each["fractions"]) for each in (none, tcp)] == [("poisson:auto", list(FRACTIONS))] * 2
    assert all(each["capacity"] > 0 and each["in_flight"] >= 4 and each["requests"] >= 16 for each in (none, tcp))
    frame = read(out)
    loaded = frame[frame["load"] != ""]
    assert loaded["cell"].drop_duplicates().sort_values().tolist() == sorted([*none["cells"], *tcp["cells"]])
    assert frame.groupby("cell").size().unique().tolist() == [40]
    assert {cell["load"] for cell in record["experiment"]["cells"]} == set(frame["load"])
    text = (out / REPORT).read_text()
    assert text.count("the knee is ") == 2
    assert text.count("knee, ") >= 2
    made = {name: (out / name).read_bytes() for name in (SUMMARY, REPORT, REPORT_HTML, LOAD)}
    for name in made:
        (out / name).unlink()
    report.build(out)
    assert {name: (out / name).read_bytes() for name in made} == made


@pytest.mark.slow
def test_a_node_that_ends_during_the_calibration_ends_the_run(model: Path, tmp_path: Path) -> None:
    words = ("--mode", "submodel", "--servers", 2, "--engine", "frozen", "--transport", "tcp", "--runs", 10_000)
    with Run("--model", model, *words, "--load", "poisson:auto", "--out", tmp_path / "out") as run:
        run.wait_for("finding the capacity")
        started = below(run.process.pid)
        (node,) = (process for process, name in started.items() if name == "node-1")
        os.kill(node.pid, signal.SIGKILL)
        assert run.finish() == (1, "error: node-1 was ended by SIGKILL")
    assert_gone([*started])
    assert len(read(tmp_path / "out")) == 0
    assert environment.read(tmp_path / "out")["failure"] == "node-1 was ended by SIGKILL"
