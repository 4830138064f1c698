"""The command `splitbench simulate`: what it refuses, prints and writes; and the check against measurement."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from experiments.simulate import check, compared, report
from experiments.spec.experiment import Cell
from experiments.store import environment, files
from tests.experiments.common import tables_of
from tests.experiments.conftest import Maker
from tests.experiments.simulating import Invented
from tests.models import residual

QUICK = ("--requests", "300")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Invented().write(tmp_path / "run", traced=True)


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The error line of a command that is refused, which is the only line on standard error."""
    assert main(["simulate", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--load", "20"], "--load '20': no load; valid: poisson:RATE/s or constant:RATE/s"),
        (["--load", "poisson:20/s,uniform:3/s"], "--load 'uniform:3/s': no load"),
        (["--replicas", "0"], "--replicas: 0 is too small; valid: 1 to 1000"),
        (["--concurrency", "1,0"], "--concurrency: 0 is too small"),
        (["--hosts", "many"], "--hosts 'many': no number of hosts; valid: run, each, or 1 to 10000"),
        (["--hosts", "0"], "--hosts '0': no number of hosts"),
        (["--link", "1Gbit"], "'1Gbit' is none of its words"),
        (["--link", "rtt:1ms"], "--link: client and servers were on one host; give them others with --hosts each or N"),
        (["--requests", "10"], "--requests: 10 is too small"),
        (["--cell", "tcp/submodel/nested/frozen/raw/b1/s2"], "not in"),
        (["--cut", "conv"], "--cut: a run has its own; choose the cell with --cell, or give a profile's folder"),
        (["--cel", "x"], "no flag '--cel'; did you mean '--cell'?"),
    ],
    ids=str,
)
def test_values_that_cannot_be_used(
    words: Sequence[str], text: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert text in refused(capsys, folder, *words)


def test_without_the_library_the_command_says_what_to_install(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "simpy", None)
    assert "pip install 'splitbench[simulation]'" in refused(capsys, folder)


def test_a_cell_that_is_not_there_names_those_that_are(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"valid: {Invented().cell.name}" in refused(capsys, folder, "--cell", "grpc")


def test_several_cells_need_a_choice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    known = Invented()
    other = replace(known.cell, trace="off")
    loaded = replace(known.cell, load="poisson:5/s")
    folder = known.write(tmp_path / "run", traced=True, beside=(other, loaded))
    assert f"valid: {known.cell.name}, {other.name}" in refused(capsys, folder)
    assert "since its requests waited for each other" in refused(capsys, folder, "--cell", loaded.name)
    assert main(["simulate", str(folder), "--cell", known.cell.name, *QUICK]) == 0


def test_folders_that_hold_nothing_to_simulate(
    tmp_path: Path, make_results: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "no folder" in refused(capsys, tmp_path / "nowhere")
    assert "cannot read" in refused(capsys, tmp_path)
    assert "measure one, for example: splitbench run --trace" in refused(capsys, make_results([Cell("none")], "bare"))
    study = tmp_path / "study"
    study.mkdir()
    (study / files.ENVIRONMENT).write_text('{"complete": true, "failure": "", "experiment": {"kind": "threads"}}')
    assert "holds a study, not a run" in refused(capsys, study)
    for limit in ({"cpu": 0.5}, {"slowdown": 2.0}):
        limited = Invented().write(tmp_path / next(iter(limit)), traced=True, machines=[{"name": "edge", **limit}])
        assert "host edge had limits of its cores or a slowdown" in refused(capsys, limited)


def test_the_table_has_a_row_for_each_load_and_number_of_replicas(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--load", "poisson:5/s,constant:10/s", "--concurrency", "1,2", "--replicas", "1,2", *QUICK]
    assert main(["simulate", str(folder), *words]) == 0
    out = capsys.readouterr().out
    assert "Simulated, not measured. Fitted to 20 traced requests" in " ".join(out.split())
    for load in ("poisson:5/s", "constant:10/s", "1 in flight", "2 in flight"):
        assert sum(line.startswith(load) for line in out.splitlines()) >= 2
    assert "cores of machine" in out


def test_an_unloaded_row_is_the_measured_cell(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["simulate", str(folder), "--out", str(out), *QUICK]) == 0
    row = report.read(out).iloc[0]
    assert (row["kind"], row["cell"], row["load"], row["concurrency"]) == ("simulated", Invented().cell.name, "", 1)
    assert row["p50"] == pytest.approx(1.1 * Invented().seconds)
    assert row["goodput"] == pytest.approx(1 / (1.1 * Invented().seconds + Invented().between), rel=0.02)
    assert not (out / files.REPLICAS).exists()  # no load, no picture


def test_a_folder_has_figures_page_and_picture_that_are_derived_again(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, again = tmp_path / "out", tmp_path / "again"
    words = ["--load", "poisson:5/s,poisson:25/s,poisson:500/s", "--replicas", "1,2", "--hosts", "each", "--cores", "1"]
    words += ["--link", "rtt:2ms,bandwidth:1Gbit", "--p99", "0.5", *QUICK, "--out"]
    assert main(["simulate", str(folder), *words, str(out)]) == 0
    assert main(["simulate", str(folder), *words, str(again)]) == 0
    derived = (files.SIMULATION, files.SIMULATION_REPORT, files.REPLICAS)
    assert (out / files.SIMULATION).read_bytes() == (again / files.SIMULATION).read_bytes()
    before = [(out / name).read_bytes() for name in derived]
    for name in derived[1:]:
        (out / name).unlink()
    assert main(["report", str(out)]) == 0
    assert before == [(out / name).read_bytes() for name in derived]
    page = (out / files.SIMULATION_REPORT).read_text()
    assert "Simulated, not measured" in page
    results, used = tables_of(page)[:2]
    assert len(results) == len(used) == 1 + 6
    assert used[0] == list(report.USED)
    assert [row[2] for row in used[1:]] == [row[6] for row in results[1:]]  # cores are the bottleneck everywhere
    assert "poisson:25/s: held with a 99th percentile within 500.0 ms by 2 replicas." in page
    assert "poisson:500/s: not held with a 99th percentile within 500.0 ms by any number of replicas" in page
    assert "(1, 2); with 2, " in page
    record = json.loads((out / files.ENVIRONMENT).read_text())
    assert record["complete"]
    assert record["experiment"]["kind"] == "simulate"
    capsys.readouterr()
    assert "already holds an experiment" in refused(capsys, folder, "--out", out)
    assert "holds a study" in refused(capsys, out)


def test_the_bound_is_twice_that_of_one_request_at_a_time(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["simulate", str(folder), "--load", "poisson:1/s", "--out", str(out), *QUICK]) == 0
    assert environment.read(out)["bound"] == pytest.approx(2 * 1.2 * Invented().seconds)


def test_the_fewest_replicas_that_hold_a_load() -> None:
    shared = {"missed_share": 0.0, "overloaded": 0, "bottleneck": "cores of a", "bottleneck_used": 0.5}
    found = pd.DataFrame(
        [
            shared | {"load": "poisson:1/s", "replicas": 2, "p99": 0.5},
            shared | {"load": "poisson:1/s", "replicas": 1, "p99": 0.9},
            shared | {"load": "poisson:2/s", "replicas": 1, "p99": 1.5},
            shared | {"load": "poisson:2/s", "replicas": 2, "p99": 0.9},
            shared | {"load": "poisson:3/s", "replicas": 1, "p99": 0.9, "missed_share": 0.1},
            shared | {"load": "poisson:3/s", "replicas": 2, "p99": 0.9, "overloaded": 1},
            shared | {"load": "", "replicas": 1, "p99": 0.1},
        ]
    )
    assert report.needed(found, 1.0) == {"poisson:1/s": 1, "poisson:2/s": 2, "poisson:3/s": None}
    assert report.draw(found[found["load"] != ""], 1.0) == report.draw(found[found["load"] != ""], 1.0)


@pytest.mark.slow
def test_the_check_measures_simulates_and_compares(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Over real processes. No test checks how close the predictions are, since that depends on the machine."""
    model, out = tmp_path / "residual.keras", tmp_path / "out"
    residual().save(model)
    words = ["--model", str(model), "--transport", "tcp", "--servers", "2", "--batch", "1", "--requests", "20"]
    assert check.main([*words, "--flow", "nested", "--concurrency", "2,3,4", "--out", str(out)]) == 0
    frame = pd.read_csv(out / files.CHECK)
    assert sorted(frame["concurrency"]) == [0, 0, 3]  # the measurements at 2 and 4 serve the fit
    assert frame["load"].notna().sum() == 2
    assert list(frame["error_p50"]) == pytest.approx(list(frame["predicted_p50"] / frame["measured_p50"] - 1), rel=1e-3)
    assert (frame[["predicted_p50", "measured_p50", "predicted_p99", "measured_p99"]] > 0).all().all()
    before = (out / files.CHECK).read_bytes(), (out / files.CHECK_REPORT).read_bytes()
    assert "Simulation against measurement" in before[1].decode()
    assert compared.build(out) == out / files.CHECK_REPORT
    assert before == ((out / files.CHECK).read_bytes(), (out / files.CHECK_REPORT).read_bytes())
    capsys.readouterr()
    assert check.main([*words, "--out", str(out)]) == 2
    assert "already holds an experiment" in capsys.readouterr().err
