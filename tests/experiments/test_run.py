"""`experiments.run` from end to end: real processes, a real photograph, a small model, and failures."""

from __future__ import annotations

import io
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import psutil
import pytest

from experiments import run
from experiments.measure import wire
from experiments.reports import report
from experiments.store import environment, samples
from tests.running import ROOT, Run, assert_gone


def assert_wire_bytes(frame: pd.DataFrame) -> None:
    """Wire bytes exceed the (small, uncompressed) payload; overlapping requests have none, as they share the wire."""
    assert (frame.loc[frame["transport"] == "none", "wire_bytes"] == 0).all()
    remote = frame[frame["transport"] != "none"]
    alone = remote["concurrency"] == 1
    assert remote.loc[~alone, "wire_bytes"].isna().all()
    if not math.isnan(wire.sent()):
        assert (remote.loc[alone, "wire_bytes"] > remote.loc[alone, "payload_bytes"]).all()


MATRIX = """
title = "The first of two"
transport = ["none", "rpyc", "rpyc-tuned", "grpc", "rest"]
codec = ["raw", "tensorproto", "json"]
mode = "submodel"
flow = ["nested", "hub", "forward"]
concurrency = [1, 3]
servers = 2
engine = "frozen"
runs = 6
warmup = 2
"""
SMALL = """
title = "The second of two"
transport = "none"
mode = "submodel"
servers = 2
runs = 2
"""


@dataclass(frozen=True)
class Ended:
    """A command that ran the experiments of two files, one after the other."""

    out: str
    """Its standard output."""
    processes: list[psutil.Process]
    """The cluster of the first experiment."""
    folders: tuple[Path, Path]


@pytest.fixture(scope="module")
def ended(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    root = tmp_path_factory.mktemp("two")
    (root / "first.toml").write_text(MATRIX)
    (root / "second.toml").write_text(SMALL)
    specs, outs = (",".join(str(root / f"{name}{end}") for name in ("first", "second")) for end in (".toml", ""))
    with Run("--model", model, "--spec", specs, "--out", outs) as going:
        going.wait_for("node-1 ready")
        processes = going.cluster()
        status, last = going.finish()
        assert status == 0, last
    return Ended(going.out, processes, (root / "first", root / "second"))


@pytest.mark.slow
def test_a_matrix_over_real_processes(ended: Ended) -> None:
    assert_gone(ended.processes)
    out = ended.folders[0]
    frame = samples.read(out)
    # (none, rpyc, rpyc-tuned: raw; grpc: raw, tensorproto; rest: json) x 3 flows x 2 concurrencies, and local
    assert frame.groupby("cell").size().to_dict() == dict.fromkeys(frame["cell"].unique(), 6)
    assert frame["cell"].nunique() == 6 * 3 * 2 + 1
    assert (frame["deviation"] <= 1e-3).all()
    assert_wire_bytes(frame)
    assert (out / "report.md").read_text().count("| Wire / payload ") == 1  # six ways to split share a table
    assert (out / "cells.md").read_text().count("| Wire / payload ") == 1
    assert environment.read(out)["complete"] is True
    assert environment.read(out)["gate"]["tolerance"] == 1e-3
    assert environment.read(out)["cards"] == {}
    assert environment.read(out)["variables"]["CUDA_VISIBLE_DEVICES"] == "-1"
    assert "since the lowest precision on the path is float32 (operation 'stem')." in (out / "report.md").read_text()
    assert {path.name for path in out.glob("plan-*.json")} == {"plan-whole.json", "plan-submodel.json"}
    written = {name: (out / name).read_bytes() for name in ("summary.csv", "report.md")}
    report.build(out)
    assert written == {name: (out / name).read_bytes() for name in written}


@pytest.mark.slow
def test_several_files_end_with_all_tables_and_the_places_of_their_reports(ended: Ended) -> None:
    last = ended.out[ended.out.rindex("The first of two") :]  # its table is printed again at the end
    places = [f"results: {folder} (begin with report.html)" for folder in ended.folders]
    assert [last.count(text) for text in ("The second of two", "95 %", *places)] == [1, 2, 1, 1]
    assert last.rstrip().endswith("\n".join(places))
    assert all(environment.read(folder)["complete"] is True for folder in ended.folders)


@pytest.mark.slow
def test_ctrl_c_keeps_the_samples_and_leaves_nothing_running(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Run("--model", model, "--servers", 2, "--runs", 1_000_000, "--out", out) as going:
        going.wait_for("requests")
        processes = going.cluster()
        assert {process.environ()["CUDA_VISIBLE_DEVICES"] for process in processes} == {"-1"}
        going.process.send_signal(signal.SIGINT)
        assert going.finish() == (130, "error: interrupted")
    assert_gone(processes)
    assert len(samples.read(out)) >= 1
    assert environment.read(out)["complete"] is False
    assert "INCOMPLETE" in (out / "report.md").read_text()


class Watched(io.StringIO):
    """A standard error that calls `act` after the first request, whose line has the word "requests" in it."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__()
        self.act = act

    def write(self, text: str) -> int:
        if "requests" in text and "requests" not in self.getvalue():
            self.act()
        return super().write(text)


@pytest.mark.slow
def test_a_node_that_dies_ends_the_run_with_the_cause(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    processes: list[psutil.Process] = []
    others = psutil.Process().children(recursive=True)  # other tests' clusters, which this process keeps

    def kill() -> None:
        below = set(psutil.Process().children(recursive=True)).difference(others)
        (node,) = (child for child in below if child.name() == "node-1")
        launcher = psutil.Process(node.ppid())
        processes.extend([launcher, *launcher.children()])
        node.kill()

    monkeypatch.setattr(sys, "stderr", stream := Watched(kill))
    words = ["--model", str(model), "--transport", "rpyc,grpc", "--servers", "2", "--runs", "1000000"]
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 1
    assert stream.getvalue().splitlines()[-1].startswith("error: node-1 was ended by SIGKILL")
    assert len(processes) == 4  # the launcher, the registry and two nodes
    assert_gone(processes)
    assert len(samples.read(tmp_path / "out")) >= 1
    assert "SIGKILL" in environment.read(tmp_path / "out")["failure"]


@pytest.mark.alone
@pytest.mark.slow
def test_a_killed_run_leaves_nothing_behind(model: Path, tmp_path: Path) -> None:
    """No process, and no file in TMPDIR or /dev/shm: the last process to end deletes the folder that all share."""
    out = tmp_path / "out"
    (temporary := tmp_path / "tmp").mkdir()
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    words = ("--model", model, "--servers", 2, "--engine", "eager,tfserving", "--option", "tfserving.binary=none")
    env = {**os.environ, "TMPDIR": str(temporary)}
    with Run(*words, "--runs", 1_000_000, "--out", out, env=env) as going:
        going.wait_for("requests")
        processes = going.cluster()
        assert {process.name() for process in processes} >= {"model-server-0", "model-server-1"}
        going.process.kill()
        assert_gone(processes)
    assert [*temporary.iterdir()] == []
    assert {path.name for path in Path("/dev/shm").iterdir()} <= shared
    assert len(samples.read(out)) >= 1
    assert "INCOMPLETE" in report.build(out).read_text()


def test_a_full_disk_is_one_clear_line(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, (soft, hard) = tmp_path / "out", resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, hard))
    try:
        status = run.main(["--model", str(model), "--transport", "none", "--runs", "1000", "--out", str(out)])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    last = capsys.readouterr().err.splitlines()[-1]
    assert status == 1
    assert last.startswith("error: cannot write")
    assert "samples.csv" in last
    assert len(samples.read(out)) > 100


REFUSED = {
    "an unknown model": (["--model", "MobileNetV3Lage"], "did you mean 'MobileNetV3Large'"),
    "a model that is not there": (["--model", "nowhere.keras"], "nowhere.keras"),
    "a transport": (["--transport", "gprc"], "did you mean 'grpc'"),
    "a value": (["--mode", "layers"], "did you mean 'layer'"),
    "a flag": (["--transprot", "grpc"], "--transprot"),
    "zero runs": (["--runs", "0"], "valid: 1 to 10000000"),
    "an input that is not there": (["--input", "nowhere.jpg"], "nowhere.jpg"),
    "an input that is no image": (["--input", __file__], "is no image"),
    "more servers than stages": (["--servers", "500"], "stages"),
    "more submodels than operations": (["--mode", "submodel", "--servers", "500"], "operations"),
    "an unknown cut": (["--mode", "submodel", "--cut", "body_9"], "body_2"),
    "too few workers": (["--placement", "round-robin", "--servers", "2", "--workers", "2"], "--workers"),
    "no results to show": (["--beside", "nowhere"], "--beside nowhere: cannot read"),
    "other results to show": (["--beside", str(ROOT / "results/reference/sizes")], "no record of an experiment"),
    "an option": (["--option", "grpc.max_mesage=1"], "did you mean 'max_message'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_unusable_value_is_refused_with_valid_ones(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, hint = REFUSED[case]
    own = [] if "--model" in flags else ["--model", str(model)]
    assert run.main([*own, *flags, "--out", str(tmp_path / "out")]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert hint in last
    assert not (tmp_path / "out").exists()


def test_a_folder_that_holds_an_experiment_is_refused(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(model), "--transport", "none", "--runs", "2", "--out", str(tmp_path / "out")]
    assert run.main(words) == 0
    before = (tmp_path / "out" / "samples.csv").read_bytes()
    assert run.main(words) == 2
    assert "already holds an experiment" in capsys.readouterr().err
    assert (tmp_path / "out" / "samples.csv").read_bytes() == before


MANY = """
import json, sys
from experiments import run
for words in json.loads(sys.argv[1]):
    print(run.main(words), "tensorflow" in sys.modules)
"""


def test_flags_and_files_are_checked_before_tensorflow_is_loaded(tmp_path: Path) -> None:
    taken, file = tmp_path / "taken", tmp_path / "file"
    taken.mkdir()
    for path in (taken / "samples.csv", file):
        path.touch()
    cases = [
        ["--out", str(taken)],
        ["--out", str(file)],
        ["--input", str(tmp_path / "nowhere.jpg"), "--out", str(tmp_path / "out")],
        ["--input", __file__, "--out", str(tmp_path / "out")],
    ]
    command = [sys.executable, "-c", MANY, json.dumps(cases)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["2 False"] * len(cases)
    for words, line in zip(cases, done.stderr.splitlines(), strict=True):
        assert line.startswith(f"error: {words[0]}")
