"""One cell under LoadGen: every scenario over real transports, what ends a test early, and what is refused."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.loadgen import __main__ as loadgen
from experiments.loadgen import logs
from experiments.loadgen import report as loadgen_report
from experiments.loadgen.options import NO_RESULT, SCENARIOS
from experiments.store import environment, files, samples
from tests.running import ROOT, Run, assert_gone, below

PARTS = ("--mode", "submodel", "--servers", "2", "--engine", "frozen")
NAMES = {f"mlperf_log_{name}" for name in ("summary.txt", "detail.txt", "accuracy.json", "trace.json")}
ALL = ",".join(SCENARIOS)


@pytest.fixture(scope="module", params=["tcp", "grpc"])
def folder(request: pytest.FixtureRequest, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results of all four scenarios, for about a second each."""
    out = tmp_path_factory.mktemp("loadgen") / "out"
    words = ("--model", model, *PARTS, "--transport", request.param, "--scenario", ALL, "--samples-per-query", "3")
    more = ("--min-duration", "1", "--min-queries", "20", "--target-qps", "50", "--target-latency", "250", "--out", out)
    with Run(*words, *more, module="experiments.loadgen") as going:
        assert going.finish()[0] == 0, going.lines
    assert "no MLPerf result" in " ".join(going.out.split())
    return out


def figures(folder: Path) -> dict[str, dict[str, str]]:
    """The rows of loadgen.csv, as text."""
    with (folder / files.LOADGEN).open(newline="") as file:
        return {row["scenario"]: row for row in csv.DictReader(file)}


def detail(folder: Path, key: str) -> str:
    """The value of a key in a detail log, as text."""
    text = (folder / logs.DETAIL).read_text()
    (found,) = re.findall(rf'^:::MLLOG {{"key": "{key}", "value": "?(.*?)"?, "time_ms"', text, re.M)
    return str(found)


@pytest.mark.slow
def test_each_scenario_leaves_the_logs_of_loadgen(folder: Path) -> None:
    for scenario, title in SCENARIOS.items():
        assert {path.name for path in (folder / scenario).iterdir()} == NAMES
        summary = (folder / scenario / "mlperf_log_summary.txt").read_text()
        assert f"Scenario : {title}\nMode     : PerformanceOnly\n" in summary
        assert "No errors encountered during test." in summary
        assert detail(folder / scenario, "requested_scenario") == title
        assert detail(folder / scenario, "num_errors") == "0"


@pytest.mark.slow
def test_the_table_says_what_the_logs_say(folder: Path) -> None:
    rows, measured = figures(folder), samples.read(folder)
    assert list(rows) == list(SCENARIOS)
    for place, (scenario, row) in enumerate(rows.items()):
        of = folder / scenario
        queries, each = int(detail(of, "result_query_count")), int(detail(of, "generated_samples_per_query"))
        assert (int(row["queries"]), int(row["samples_per_query"]), int(row["samples"])) == (
            *(queries, each, queries * each),
        )
        assert (measured["block"] == place).sum() == queries * each
        assert row["validity"] == detail(of, "result_validity")
        summary = (of / "mlperf_log_summary.txt").read_text()
        for share in (50, 90, 95, 99):
            (nanoseconds,) = re.findall(rf"^{share}\.00 percentile latency \(ns\)   : (\d+)$", summary, re.M)
            assert float(row[f"p{share}_ms"]) == pytest.approx(int(nanoseconds) / 1e6)
        assert (float(row["min_duration"]), row["min_queries"]) == (1.0, "20")
    assert int(rows["multi-stream"]["samples_per_query"]) == 3
    assert (rows["multi-stream"]["samples_per_second"], rows["offline"]["target_latency_ms"]) == ("", "")
    assert (float(rows["server"]["target_qps"]), float(rows["server"]["target_latency_ms"])) == (50.0, 250.0)
    summary = (folder / "offline" / "mlperf_log_summary.txt").read_text()
    assert f"Samples per second: {float(rows['offline']['samples_per_second']):g}\n" in summary


@pytest.mark.slow
def test_loadgens_latency_holds_the_whole_request(folder: Path) -> None:
    seconds = samples.read(folder).groupby("block")["seconds"].min()
    assert float(figures(folder)["single-stream"]["p50_ms"]) >= 1e3 * seconds[0]


@pytest.mark.slow
def test_the_report_says_what_it_is_not(folder: Path) -> None:
    record = environment.read(folder)
    assert (record["complete"], record["experiment"]["kind"]) == (True, "loadgen")
    assert record["gate"]["tolerance"] > 0
    before = (folder / files.REPORT).read_bytes()
    assert loadgen_report.build(folder).read_bytes() == before
    text = before.decode()
    assert NO_RESULT in text
    assert "at least 1 s here; an official run lasts at least 600 s" in text
    for scenario, row in figures(folder).items():
        assert re.search(rf"^\| {scenario} +\| +{row['validity']} \|", text, re.M)
    done = subprocess.run(
        [sys.executable, "-m", "experiments.report", folder], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(folder / files.REPORT)
    assert (folder / files.REPORT).read_bytes() == before


def begun(model: Path, out: Path, transport: str, scenario: str, *words: str, **options: Any) -> Run:
    """A run whose second scenario takes long."""
    given = ("--model", model, *PARTS, "--transport", transport, "--scenario", f"single-stream,{scenario}")
    return Run(*given, *words, "--out", out, module="experiments.loadgen", **options)


def assert_first_kept(out: Path, scenario: str, failure: str) -> None:
    """The first scenario is complete, the second is not, and LoadGen wrote no summary of it."""
    record = environment.read(out)
    assert (record["complete"], record["failure"]) == (False, failure)
    assert list(figures(out)) == ["single-stream"]
    assert (out / scenario / "mlperf_log_summary.txt").read_text() == ""
    measured = samples.read(out)
    assert (measured["block"] == 0).sum() == int(figures(out)["single-stream"]["samples"])
    text = (out / files.REPORT).read_text()
    assert f"**INCOMPLETE**: {failure}" in text
    answered = (measured["block"] == 1).sum()
    assert f"{scenario} did not end, so LoadGen's logs of it are incomplete. {answered} requests were answered" in text


LONG = {
    "multi-stream": ("tcp", "--min-duration", "1", "--min-queries", "100", "--samples-per-query", "300"),
    "server": ("grpc", "--min-duration", "1", "--min-queries", "500", "--target-qps", "10"),
}
"""Scenario -> transport and flags with which the scenario takes long."""


@pytest.mark.slow
@pytest.mark.parametrize("scenario", LONG)
def test_a_killed_node_ends_the_run(scenario: str, model: Path, tmp_path: Path) -> None:
    transport, *words = LONG[scenario]
    with begun(model, tmp_path / "out", transport, scenario, *words) as going:
        going.wait_for(f"{scenario}, for at least")
        processes = below(going.process.pid)
        next(process for process, name in processes.items() if name == "node-1").kill()
        assert going.finish() == (1, "error: node-1 was ended by SIGKILL")
    assert_gone([*processes])
    assert_first_kept(tmp_path / "out", scenario, "node-1 was ended by SIGKILL")


@pytest.mark.slow
def test_ctrl_c_ends_a_test_in_which_loadgen_sleeps(model: Path, tmp_path: Path) -> None:
    """The next query is due only in minutes."""
    (temporary := tmp_path / "tmp").mkdir()
    words = ("--min-duration", "1", "--min-queries", "20", "--target-qps", "0.001")
    env = {**os.environ, "TMPDIR": str(temporary)}
    with begun(model, tmp_path / "out", "tcp", "server", *words, env=env) as going:
        going.wait_for("server, for at least")
        processes = psutil.Process(going.process.pid).children(recursive=True)
        going.process.send_signal(signal.SIGINT)
        assert going.finish() == (130, "error: interrupted")
    assert_gone(processes)
    assert environment.read(tmp_path / "out")["failure"] == "it was interrupted"
    assert list(figures(tmp_path / "out")) == ["single-stream"]
    assert [*temporary.iterdir()] == []


WRONG = """
import itertools, sys
from experiments.measure import gate
real, calls = gate.check, itertools.count()
def check(outputs, *rest):
    return real({name: array + (next(calls) == 60) for name, array in outputs.items()}, *rest)
gate.check = check
from experiments.loadgen.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("scenario", ["multi-stream", "offline"])
def test_a_wrong_answer_ends_the_run(scenario: str, model: Path, tmp_path: Path) -> None:
    words = ("--model", model, *PARTS, "--transport", "none", "--scenario", scenario, "--out", tmp_path / "out")
    command = [sys.executable, "-c", WRONG, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert "'head'" in last
    assert "deviates" in last
    assert environment.read(tmp_path / "out")["failure"] in last
    assert len(samples.read(tmp_path / "out")) > 0


REFUSED = {
    "several cells": (
        ["--transport", "tcp,grpc"],
        "these are 2: give one value for each setting (transport: tcp, grpc",
    ),
    "a load": (["--load", "poisson:20/s"], "--load: LoadGen decides when requests begin"),
    "a concurrency": (["--concurrency", "4"], "--concurrency: LoadGen decides"),
    "a number of runs": (["--runs", "5"], "--runs: LoadGen decides"),
    "a trace": (["--trace"], "--trace: under LoadGen one cell is loaded, and nothing is compared, traced or killed"),
    "a kill": (["--kill", "node-1@2"], "--kill: under LoadGen one cell is loaded"),
    "a file with concurrency": (["--spec", "SPEC"], "--spec: concurrency: LoadGen decides"),
    "two files": (["--spec", "SPEC,SPEC"], "--spec: "),
    "a scenario": (["--scenario", "multistream"], "no scenario 'multistream'; did you mean 'multi-stream'?"),
    "a runtime of one request": (
        ["--transport", "sockets", "--scenario", "single-stream,server"],
        "--scenario server: --transport sockets takes one request at a time; valid: --scenario single-stream",
    ),
    "the local model": (
        ["--transport", "none", "--mode", "whole", "--scenario", "offline"],
        "--scenario offline: the local model takes one request at a time; valid: --scenario single-stream",
    ),
    "pinned without nodes": (["--transport", "none", "--pin"], "--pin on: it pins nodes"),
    "a rate that no scenario has": (["--target-qps", "5"], "--target-qps: valid with --scenario server or offline"),
    "a bound": (["--scenario", "offline", "--target-latency", "5"], "--target-latency: valid with --scenario server"),
    "samples": (["--samples-per-query", "5"], "--samples-per-query: valid with --scenario multi-stream"),
    "in flight": (["--in-flight", "5"], "--in-flight: valid with --scenario multi-stream or server or offline"),
    "no rate": (["--scenario", "server", "--target-qps", "0"], "--target-qps: 0 is too small; valid: 0.001 to 1000000"),
    "a bound of nothing": (["--scenario", "server", "--target-latency", "0"], "--target-latency: 0 is too small"),
    "no duration": (["--min-duration", "0"], "--min-duration: 0 is too small"),
    "no queries": (["--min-queries", "0"], "--min-queries: 0 is too small"),
    "a flag": (["--target-rate", "5"], "no flag '--target-rate'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_values_that_cannot_be_used_are_refused_in_one_line(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, text = REFUSED[case]
    spec = tmp_path / "spec.toml"
    spec.write_text("concurrency = 4\n")
    given = [word.replace("SPEC", str(spec)) for word in words]
    assert loadgen.main([*given, "--out", str(tmp_path / "out")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert text in line
    assert not (tmp_path / "out").exists()


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['mlperf_loadgen'] = None; from experiments.loadgen.__main__ import main; "
    command = [sys.executable, "-c", f"{code} sys.exit(main(['--out', {str(tmp_path / 'out')!r}]))"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "pip install 'splitbench[loadgen]'" in done.stderr


def test_the_help_says_what_it_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        loadgen.main(["--help"])
    assert "is no MLPerf result" in capsys.readouterr().out


def test_a_log_without_a_result_is_said_as_such(tmp_path: Path) -> None:
    entry = {"key": "effective_samples_per_query", "value": 1}
    (tmp_path / logs.DETAIL).write_text(f"{logs.MARK}{json.dumps(entry)}\n")
    with pytest.raises(files.WriteError, match="LoadGen wrote no 'result_query_count'"):
        logs.Outcome.of("server", tmp_path)
