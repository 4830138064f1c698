"""Requests under `--load`: figures by hand and of invented servers, the verdict, and runs over real processes."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from experiments.measure.answered import missed
from experiments.reports import report
from experiments.reports.terminal import render_table
from experiments.spec.experiment import Cell, local_of
from experiments.spec.schedule import Block
from experiments.store import environment, samples
from experiments.store.loaded import overloaded
from experiments.store.samples import Sample, Writer, read
from experiments.store.statistics import summarise
from tests.experiments.common import rows
from tests.experiments.test_terminal import printed
from tests.running import Run, below

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

CONSTANT = Cell(load="constant:20/s")


def write(folder: Path, cell: Cell, blocks_: Sequence[Sequence[float]], gap: float) -> dict[str, Any]:
    """The summary's row of a cell whose requests start `gap` seconds apart. NaN: a request missed its limit of 2 s."""
    with Writer(folder) as writer:
        for number, seconds in enumerate(blocks_):
            for place, value in enumerate(seconds):
                run, start = number * len(seconds) + place, 100.0 * number + gap * place
                if math.isnan(value):
                    writer.append(missed(cell, run, Block(number, number, 0, 1, range(0)), 2.0, start, 0.0))
                else:
                    more: dict[str, Any] = {"start": start, "round": number, "late_seconds": 0.5, "queue_seconds": 0.1}
                    writer.append(Sample(cell, run, value, number, **more))
    return rows(summarise(read(folder), 0))[cell.name]


def test_figures_of_a_load_by_hand(tmp_path: Path) -> None:
    """Two blocks of four requests, one each half second: one answer of eight is missing."""
    found = write(tmp_path, Cell(load="constant:2/s"), [[0.25, 0.25, 0.25, math.nan], [0.25, 0.25, 0.25, 1.5]], 0.5)
    assert found["offered"] == 2.0
    assert found["missed_share"] == 1 / 8
    assert found["goodput"] == found["throughput"] == pytest.approx(7 / (2.0 + 3.5))  # to the last start or answer
    assert found["mean"] == pytest.approx((6 * 0.25 + 2.0 + 1.5) / 8)  # a miss counts as its limit of 2 s
    assert found["p95"] == pytest.approx(np.percentile([0.25] * 6 + [1.5, 2.0], 95))
    assert found["late_seconds"] == pytest.approx(7 * 0.5 / 8)
    assert found["growth"] == pytest.approx(3.5 / 0.5)
    assert found["queue_seconds"] == pytest.approx(0.1)  # of the answered requests
    frame = read(tmp_path)
    assert frame["missed"].tolist() == [0, 0, 0, 1, 0, 0, 0, 0]
    assert frame["messages"].isna().tolist() == [value == 1 for value in frame["missed"]]


def test_a_closed_loop_has_none_of_these_figures(tmp_path: Path) -> None:
    with Writer(tmp_path) as writer:
        for run in range(9):
            writer.append(Sample(Cell(), run, 1.0 + run, 0, start=float(run)))
    row = rows(summarise(read(tmp_path), 0))[Cell().name]
    assert all(math.isnan(row[name]) for name in ("offered", "goodput", "missed_share", "late_seconds", "growth"))
    assert not overloaded(row)
    assert not overloaded({})


def wave(rate: float, count: int, service: float, rounds: int) -> list[list[float]]:
    """Latencies of a single server with random service times, at constant gaps."""
    rng, found = np.random.default_rng(0), []
    for _ in range(rounds):
        free, seconds = 0.0, []
        for place in range(count):
            free = max(free, place / rate) + service * rng.uniform(0.5, 1.5)
            seconds.append(free - place / rate)
        found.append(seconds)
    return found


@pytest.mark.parametrize("rounds", [2, 8])
@pytest.mark.parametrize(("service", "expected"), [(0.005, False), (0.025, False), (0.08, True), (0.5, True)])
def test_a_cell_is_overloaded_if_a_queue_grows(tmp_path: Path, service: float, expected: bool, rounds: int) -> None:
    """20 requests per second: a server takes 10, 50, 160 or 1000 % of the time between them."""
    assert overloaded(write(tmp_path, CONSTANT, wave(20, 20, service, rounds), 0.05)) is expected


def test_one_stalled_block_is_no_overload(tmp_path: Path) -> None:
    steady = [[0.01] * 20 for _ in range(7)]
    stalled = [[0.01] * 12 + [1.0 - 0.05 * place for place in range(8)]]
    assert not overloaded(write(tmp_path, CONSTANT, steady + stalled, 0.05))


def test_a_cell_whose_requests_miss_is_overloaded(tmp_path: Path) -> None:
    assert overloaded(write(tmp_path, CONSTANT, [[math.nan] * 10] * 6, 0.05))


def test_the_report_and_the_terminal_say_overloaded(make_results: Maker) -> None:
    folder = make_results([CONSTANT, Cell()])
    (folder / "samples.csv").unlink()
    with Writer(folder) as writer:
        for number, seconds in enumerate(wave(20, 20, 0.2, 6)):
            for place, value in enumerate(seconds):
                run = number * 20 + place
                found = Sample(CONSTANT, run, value, 3 * number, start=100.0 * number + place / 20, round=number)
                writer.append(replace(found, late_seconds=0.0))
                for part, cell in enumerate((local_of(Cell()), Cell()), 1):
                    writer.append(Sample(cell, run, 0.1, 3 * number + part, start=100.0 * number + place, round=number))
    text = report.build(folder).read_text()
    assert text.count("**OVERLOADED**") == 1
    for expected in ("answers take longer and longer", "| Goodput (1/s)", "| Missed (%)", "| p95 (s)"):
        assert expected in text
    assert "**Open loop**" in (folder / "cells.md").read_text()
    out = " ".join(printed(render_table(report.summary_of(samples.read(folder), 0)), 100).split())
    assert "gRPC, load constant:20/s: overloaded: answers take longer and longer" in out
    assert "goodput" in out


FLAGS = ("--mode", "submodel", "--servers", 2, "--engine", "frozen")


@pytest.mark.slow
def test_a_rate_that_the_machine_bears(model: Path, tmp_path: Path) -> None:
    """No request is missed, and every request has a sample."""
    out, loads = tmp_path / "out", ",constant:40/s,poisson:40/s"
    with Run("--model", model, *FLAGS, "--transport", "none,tcp", "--load", loads, "--runs", 40, "--out", out) as run:
        assert run.finish()[0] == 0, run.lines
    frame = read(out)
    assert frame.groupby("cell").size().to_dict() == dict.fromkeys(frame["cell"].unique(), 40)
    assert frame["cell"].nunique() == 2 * 3 + 1
    assert (frame["missed"] == 0).all()
    assert (frame["late_seconds"].isna() == (frame["load"] == "")).all()
    assert (frame["late_seconds"].dropna() >= 0).all()
    assert (frame["deviation"] <= 1e-3).all()
    summary = rows(report.summary_of(frame, 0))
    exact = [row["offered"] for cell, row in summary.items() if cell.endswith("load=constant:40/s")]
    assert exact == pytest.approx([40] * 2)


@pytest.mark.slow
def test_a_node_that_stalls_shows_in_the_requests_that_were_to_begin_meanwhile(model: Path, tmp_path: Path) -> None:
    """A closed loop would show only one slow request."""
    out = tmp_path / "out"
    words = ("--transport", "tcp", "--load", "constant:40/s", "--runs", 240, "--order", "blocked", "--out", out)
    with Run("--model", model, *FLAGS, *words) as run:
        run.wait_for("288/480 requests")  # the local model's 240 come first
        (node,) = (process for process, name in below(run.process.pid).items() if name == "node-0")
        os.kill(node.pid, signal.SIGSTOP)
        try:
            time.sleep(1.2)
        finally:
            os.kill(node.pid, signal.SIGCONT)
        assert run.finish()[0] == 0, run.lines
    frame = read(out)
    loaded = frame[frame["load"] != ""]
    assert (loaded["seconds"] > 0.5).sum() >= 10
    assert loaded["seconds"].max() > 0.7
    (row,) = (row for cell, row in rows(summarise(frame, 0)).items() if cell.endswith("load=constant:40/s"))
    assert row["p99"] > 0.5
    assert row["missed_share"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("transport", ["none", "tcp"])
def test_a_rate_far_above_capacity_is_overload_and_no_failure(transport: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ("--transport", transport, "--load", "poisson:20000/s", "--timeout", 0.01, "--runs", 1500, "--out", out)
    with Run("--model", model, *FLAGS, *words) as run:
        assert run.finish()[0] == 0, run.lines
    assert "overloaded: answers take longer and longer" in " ".join(run.out.split())
    assert "**OVERLOADED**" in (out / "report.md").read_text()
    assert environment.read(out)["complete"] is True
    frame = read(out)
    late = frame[frame["missed"] == 1]
    assert len(late) > 0
    assert (late["seconds"] >= 0.01).all()
    assert (frame.loc[(frame["load"] != "") & (frame["missed"] == 0), "seconds"] <= 0.01).all()
    assert late["deviation"].isna().all()


@pytest.mark.slow
def test_a_node_that_ends_under_load_ends_the_run(model: Path, tmp_path: Path) -> None:
    words = ("--transport", "tcp", "--load", "poisson:50/s", "--runs", 100_000, "--out", tmp_path / "out")
    with Run("--model", model, *FLAGS, *words) as run:
        run.wait_for("requests")
        (node,) = (process for process, name in below(run.process.pid).items() if name == "node-1")
        with contextlib.suppress(ProcessLookupError):
            os.kill(node.pid, signal.SIGKILL)
        status, last = run.finish()
    assert status == 1
    assert "node-1 was ended by SIGKILL" in last
    assert len(read(tmp_path / "out")) >= 1
