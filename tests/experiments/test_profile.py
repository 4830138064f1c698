"""`splitbench profile` with real processes, and the advice from its profile, which is measured, fitted and run."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from experiments import report, run
from experiments.advise.__main__ import main as advise
from experiments.profile import hosts
from experiments.profile.__main__ import main as make
from experiments.store import environment, files, samples
from experiments.store import profile as store
from experiments.store.profile import Profile

HOSTS = '[[host]]\nname = "edge"\nclient = true\nservers = [0]\n[[host]]\nname = "cloud"\nservers = [1]\n'
LINK = "edge<->cloud rtt:2ms,bandwidth:100Mbit"
COMMON = ("--engine", "frozen")


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("hosts") / "hosts.toml"
    path.write_text(HOSTS)
    return str(path)


@pytest.fixture(scope="module")
def folder(model: Path, machines: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("profile") / "out"
    words = ["--model", str(model), *COMMON, "--hosts", machines, "--transport", "tcp,grpc,none"]
    assert make([*words, "--positions", "5", "--rounds", "6", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def found(folder: Path) -> Profile:
    return store.read(folder)


def test_each_host_has_the_runs_of_each_position(found: Profile) -> None:
    assert found.names == ("edge", "cloud")
    for name in found.names:
        runs = found.runs_of(name)
        assert len(runs.positions) >= 5
        assert all(seconds.value > 0 for seconds in runs.measured.values())
        assert any(first and last < runs.operations for first, last in runs.measured), "runs between positions"


def test_each_transport_has_messages_with_each_content(found: Profile) -> None:
    assert found.transports == ("tcp", "grpc"), "none carries nothing"
    positions = {0, *found.runs_of("edge").positions}
    for name in found.transports:
        rows = found.messages[found.messages["transport"] == name]
        assert set(rows["position"].dropna()) == positions
        assert rows["bytes"].max() == 1_000_000
        assert (rows["wire_bytes"] >= rows["bytes"]).all()
        assert found.message_cost(name).call.value > 0


def test_operations_have_weights_and_what_crosses_before_them(found: Profile) -> None:
    rows = found.operations[found.operations["host"] == "edge"].set_index("operation")
    assert rows.loc["stem", "weight_bytes"] == 4 * (3 * 3 * 3 * 4 + 4)
    assert (rows.loc["head", "tensors"], rows.loc["head", "bytes"]) == (1, 4 * 4)
    assert (found.hosts["built_bytes"] > found.hosts["base_bytes"]).all()


def test_its_report_is_derived_again_to_the_byte(folder: Path) -> None:
    before = (folder / files.REPORT).read_bytes()
    assert report.main([str(folder)]) == 0
    assert (folder / files.REPORT).read_bytes() == before
    assert environment.read(folder)["complete"]


def test_advice_is_measured_and_its_regret_stated(
    folder: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "verified"
    words = ["--profile", str(folder), "--model", str(model), "--link", LINK]
    assert advise([*words, "--transport", "tcp", "--verify", "all", "--runs", "25", "--out", str(out)]) == 0
    with (out / files.REGRET).open() as file:
        (row,) = csv.DictReader(file)
    cells = set(samples.read(out)["cell"])
    assert {row["advised"], row["best"]} <= cells
    assert float(row["regret"]) >= 0
    assert float(row["equal"]) >= 0
    assert int(row["ways"]) >= 2 + 5, "whole on either side, and every position"
    assert "Regret of the advice" in capsys.readouterr().out
    fitted = tmp_path / "fitted"
    assert advise([*words, "--fit", str(out), "--out", str(fitted)]) == 0
    with (fitted / files.FIT).open() as file:
        parameters = {line["parameter"]: line for line in csv.DictReader(file)}
    assert "a message over tcp" in parameters
    assert all(float(line["low"]) <= float(line["value"]) <= float(line["high"]) for line in parameters.values())
    with (fitted / files.PREDICTIONS).open() as file:
        held_out = [line["held_out"] for line in csv.DictReader(file)]
    assert 0 < held_out.count("1") < len(held_out)


def test_a_run_cuts_where_it_is_advised(folder: Path, model: Path, machines: str, tmp_path: Path) -> None:
    words = ["--model", str(model), *COMMON, "--hosts", machines, "--transport", "none,tcp", "--link", LINK]
    words += ["--mode", "submodel", "--servers", "2", "--cut", "advised,equal", "--runs", "2", "--warmup", "1"]
    assert run.main([*words, "--profile", str(folder), "--out", str(tmp_path / "run")]) == 0
    cuts = set(samples.read(tmp_path / "run")["cut"])
    operations = set(store.read(folder).operations["operation"])
    assert cuts - {"equal"} <= operations
    assert len(cuts) >= 2
    assert environment.read(tmp_path / "run")["experiment"]["profile"] == folder.name


REFUSED = {
    "no profile": ([], "--cut advised: give a profile (--profile FOLDER); make one with"),
    "another engine": (["--engine", "eager"], "the profile has engine frozen, and the cell eager"),
    "another batch": (["--batch", "2"], "the profile has batch 1, and the cell 2"),
    "another flow": (["--flow", "hub"], "the profile is of flow nested, and the cell has hub"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_advised_cut_without_a_fitting_profile_is_refused(
    case: str, folder: Path, model: Path, machines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more, text = REFUSED[case]
    words = ["--model", str(model), "--hosts", machines, "--mode", "submodel", "--servers", "2"]
    words += [
        *(["--engine", "frozen"] if "--engine" not in more else []),
        *more,
        "--cut",
        "advised",
        "--transport",
        "tcp",
    ]
    words += ["--profile", str(folder)] if more else []
    assert run.main([*words, "--out", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


NO_PROFILE = {
    "two engines": (["--engine", "eager,frozen"], "a profile is of one engine and one batch, and these are 2"),
    "two batches": (["--batch", "1,2"], "a profile is of one engine and one batch"),
    "no transport": (["--transport", "none"], "a profile needs a transport between processes"),
    "a kill": (["--transport", "tcp", "--kill", "node-0@3"], "a profile cannot have --kill"),
    "few rounds": (["--rounds", "2"], "--rounds: 2 is too small; valid: 5 or more"),
    "an unknown cut": (["--mode", "submodel", "--cut", "moon"], "no operation 'moon' to cut before"),
}


@pytest.mark.parametrize("case", NO_PROFILE)
def test_what_cannot_be_profiled_is_refused(
    case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, text = NO_PROFILE[case]
    assert make(["--model", str(model), *words, "--out", str(tmp_path / "out")]) == 2
    assert text in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_runs_are_timed_in_batches_that_fit_into_memory() -> None:
    runs = hosts.runs_of([2, 4, 6, 8], 10)
    weights = [hosts.ALIVE // 10] * 10
    found = list(hosts.batches(runs, weights))
    assert [run for batch in found for run in batch] == runs
    assert len(found) > 1
    assert all(len(batch) <= 2 or sum(last - first for first, last in batch) <= 10 for batch in found)
