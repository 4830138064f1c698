"""Growth of time with message size: real processes at tiny sizes, and arithmetic by hand."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

import transports
from experiments.sizes import __main__ as sizes
from experiments.sizes import echo
from experiments.sizes import report as sizes_report
from experiments.sizes.measure import COLUMNS, MB, EchoClient, Sample, Study, Way, predicted, ways_of
from experiments.sizes.ratios import ratios
from experiments.store import environment
from experiments.store.rows import Writer
from tests.running import ROOT
from transports.errors import ConnectionLost

REMOTE = [name for name in transports.NAMES if name != "none"]
PATIENT = ["--longest", "8000"]
"""Flags with which no size is left out, even if a busy machine needs a second for four bytes."""
STREAM, UNARY = Way("grpc", send="stream"), Way("grpc", send="unary")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of every way at three sizes, in two rounds."""
    out = tmp_path_factory.mktemp("sizes") / "out"
    words = ["--sizes", "0.02,0.004,0.000004", "--repeats", "2", *PATIENT, "--out", str(out)]
    assert sizes.main(words) == 0
    return out


def test_every_way_is_measured_at_every_size(measured: Path) -> None:
    frame = sizes_report.read(measured)
    ways = ways_of(REMOTE)
    assert {*frame["way"]} == {way.name for way in ways}
    assert {(way.transport, way.codec) for way in ways} == {
        (name, codec) for name in REMOTE for codec in transports.load(name).codecs
    }
    assert {STREAM, UNARY} <= {*ways}
    assert {*frame["bytes"]} == {4, 4000, 20_000}
    assert frame.loc[frame["transport"] == "unix", "wire_bytes"].isna().all()
    turns = frame.groupby(["way", "bytes"])
    assert len(turns) == 3 * len(ways)
    assert (turns["round"].nunique() == 2).all()
    for _, turn in turns:
        assert turn["run"].tolist() == list(range(len(turn)))
    order = frame.drop_duplicates(["round", "way", "bytes"]).groupby("round")[["way", "bytes"]]
    first, second = (list(group.itertuples(index=False, name=None)) for _, group in order)
    assert first != second
    assert sorted(first) == sorted(second)


def test_a_results_folder_has_samples_summary_report_chart_and_environment(measured: Path) -> None:
    names = {path.name for path in measured.iterdir()}
    assert names == {"samples.csv", "summary.csv", "report.md", "report.html", "sizes.svg", "environment.json"}
    record = environment.read(measured)
    assert (record["complete"], record["failure"]) == (True, "")
    assert Study.from_record(record["experiment"]).sizes == (4, 4000, 20_000)
    text = (measured / "report.md").read_text()
    for word in ("gRPC stream", "RPyC tuned", "0.02 MB", "0.004 MB to 0.02 MB", "`grpc.send=stream` is"):
        assert word in text
    for way in ways_of(REMOTE):
        assert f">{way.name}<" in (measured / "sizes.svg").read_text()


def test_four_sizes_show_a_quadratic_part(tmp_path: Path) -> None:
    """Invented seconds, in a folder as a run leaves it."""
    curves = {Way("rpyc"): 0.001, Way("rpyc-tuned"): 0.0}
    study = Study((*curves,), tuple(size * MB for size in (1, 4, 16, 64)))
    environment.begin(tmp_path, study.record(), [])
    with Writer(tmp_path / "samples.csv", COLUMNS) as writer:
        for way, quadratic in curves.items():
            for size in study.sizes:
                writer.append(Sample(way, size, 0, 0, 0.01 * size / MB + quadratic * (size / MB) ** 2, math.nan))
    environment.finish(tmp_path)
    text = sizes_report.build(tmp_path).read_text()
    rows = {line.split("|")[1].strip(): line.split("|")[2:4] for line in text.splitlines() if line.startswith("| ")}
    shown = {
        name: [float(cell) for cell in rows[name]] for name in rows if name.startswith(("for each", "quadr", "fitted"))
    }
    assert shown["for each MB (ms)"] == [10.0, 10.0]
    assert shown["for each MB squared (ms)"] == pytest.approx([1.0, 0.0], abs=1e-6)
    assert shown["quadratic part at the largest size (%)"] == [86, 0]  # 4.096 of 4.736 s
    assert shown["fitted from 1 MB on"] == pytest.approx([1.45, 1.0], abs=0.1)
    assert "Bytes on the wire / payload" not in text


def test_a_ratio_is_paired_by_round() -> None:
    """The rounds' ratios of medians are 1, 2, 4, 2, 1 and 2: their geometric mean is the sixth root of 32."""
    ones, rows = (1.0, 2.0, 4.0, 2.0, 1.0, 2.0), []
    for number, ratio in enumerate(ones):
        slow = 10.0**number  # a slow machine slows both ways down
        rows += [("a", 100, number, slow * ratio * factor) for factor in (0.5, 1.0, 9.0)]
        rows += [("b", 100, number, slow)]
    samples = pd.DataFrame([*rows, ("a", 200, 0, 1.0)], columns=["way", "bytes", "round", "seconds"])
    found = ratios(samples, "a", "b")
    assert list(found) == [100]
    assert found[100].value == pytest.approx(32 ** (1 / 6))
    half = 2.5706 * np.log(ones).std(ddof=1) / math.sqrt(6)  # Student's t with five degrees of freedom
    assert math.log(found[100].high / found[100].value) == pytest.approx(half, rel=1e-4)
    assert math.log(found[100].value / found[100].low) == pytest.approx(half, rel=1e-4)
    assert found[100].text(3) == "1.78 (1.03 to 3.08)"
    assert ratios(samples[samples["round"] < 4], "a", "b")[100].text(3) == "2.00"  # too few rounds for an interval
    assert ratios(samples, "a", "c") == {}


def test_the_report_is_reproducible_to_the_byte(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("summary.csv", "report.md", "report.html", "sizes.svg")
    before = {name: (measured / name).read_bytes() for name in names}
    assert sizes.main(["--report", str(measured)]) == 0
    assert {name: (measured / name).read_bytes() for name in names} == before
    assert "report.md" in capsys.readouterr().out


def test_a_folder_that_holds_results_is_refused(measured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sizes.main(["--sizes", "0.01", "--out", str(measured)]) == 2
    assert "already holds an experiment" in capsys.readouterr().err


def test_sizes_that_would_take_too_long_are_left_out(tmp_path: Path) -> None:
    """Every call takes more than a microsecond."""
    words = ["--transport", "rpyc-tuned", "--sizes", "0.01,1", "--longest", "0.000001", "--out", str(tmp_path / "out")]
    assert sizes.main(words) == 0
    report = (tmp_path / "out" / "report.md").read_text()
    assert "rpyc-tuned was left out from 0.01 MB on, where one call took" in report
    assert "Nothing was timed." in report


def test_a_message_that_a_transport_refuses_is_left_out(tmp_path: Path) -> None:
    words = ["--transport", "rpyc-tuned,grpc", "--codec", "raw", "--sizes", "0.01,0.1", "--repeats", "1"]
    option = [*PATIENT, "--option", "rpyc-tuned.max_message=50000", "--out", str(tmp_path / "out")]
    assert sizes.main([*words, *option]) == 0
    frame = sizes_report.read(tmp_path / "out")
    assert frame.groupby("way")["bytes"].max().to_dict() == {
        "rpyc-tuned": 10_000,
        "grpc unary": 100_000,
        "grpc stream": 100_000,
    }
    assert "above the limit of 50000 bytes" in (tmp_path / "out" / "report.md").read_text()


REFUSED = {
    "an unknown transport": (["--transport", "gprc"], "did you mean 'grpc'"),
    "an in-process transport": (["--transport", "none,grpc"], "crosses no wire"),
    "a transport without a codec": (
        ["--transport", "grpc,rest", "--codec", "json"],
        "--codec: transport 'grpc' has none of these; valid: add one of raw, tensorproto",
    ),
    "an unknown codec": (["--codec", "tensorprot"], "did you mean 'tensorproto'"),
    "no size": (["--sizes", "1,large"], "'large' is no number"),
    "an empty size": (["--sizes", ""], "is no number"),
    "size zero": (["--sizes", "0,1"], "valid are"),
    "more than a message can have": (["--max", "5000"], "valid are"),
    "no repeat": (["--repeats", "0"], "1 or more"),
    "half a repeat": (["--repeats", "1.5"], "1 or more"),
    "no time": (["--longest", "0"], "valid: more than 0 seconds"),
    "not a number": (["--longest", "nan"], "is no number"),
    "a seed": (["--seed", "-1"], "valid: 0 or more"),
    "an option of a transport that is not measured": (
        ["--transport", "rpyc", "--option", "grpc.chunk=2000"],
        "is not measured",
    ),
    "an unknown option": (["--option", "grpc.chunks=2000"], "did you mean 'chunk'"),
    "an option whose values are all measured": (["--option", "grpc.send=stream"], "every value of it is measured"),
    "no folder to report": (["--report", "nowhere"], "no folder 'nowhere'"),
    "another experiment": (["--report", str(ROOT / "results/reference/tuned-layer")], "holds another experiment"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_unusable_values_are_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words, hint = REFUSED[case]
    assert sizes.main([*words, "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert hint in err
    assert not (tmp_path / "out").exists()


def test_sizes_above_the_free_memory_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    free = psutil.virtual_memory()._replace(available=600 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: free)
    assert sizes.main(["--max", "64", "--out", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()
    assert "give at most 50 MB" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_keeps_its_samples_and_leaves_nothing_running(
    number: signal.Signals, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "experiments.sizes", "--transport", "rpyc-tuned", "--sizes", "0.01"]
    command += ["--repeats", "1000000", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "requests" in line:
                break
        (child,) = psutil.Process(process.pid).children()
        process.send_signal(number)
        last = process.stderr.read().strip().splitlines()[-1:]
    assert not psutil.wait_procs([child], timeout=60)[1]
    frame = sizes_report.read(tmp_path / "out")
    assert len(frame) >= 1
    assert environment.read(tmp_path / "out")["complete"] is False
    if number != signal.SIGKILL:
        assert (process.returncode, last) == (130, ["error: interrupted"])
        assert "INCOMPLETE" in (tmp_path / "out" / "report.md").read_text()


def test_an_echo_process_that_dies_is_named_as_the_cause() -> None:
    way = Way("rpyc-tuned")
    study = Study((way,), (4000,))
    with echo.process(way.transport) as (found, child), way.connect(found[way.transport], {}) as connection:
        client = EchoClient(study, {way: connection}, child)
        os.kill(child.pid, signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # keeps its exit status readable
        with pytest.raises(ConnectionLost, match=r"^rpyc-tuned, 0\.004 MB: .*; the echo process ended with status -9"):
            list(client.turn(way, 4000, 0.1))


def test_an_echo_process_that_cannot_start_says_why() -> None:
    with pytest.raises(echo.EchoFailed, match="no transport 'gprc'"), echo.process("gprc"):
        pass


def made(tmp_path: Path, seconds: dict[Way, dict[int, list[float]]]) -> pd.DataFrame:
    """The summary of the given seconds."""
    with Writer(tmp_path / "samples.csv", COLUMNS) as writer:
        for way, sizes_of in seconds.items():
            for size, values in sizes_of.items():
                for run, value in enumerate(values):
                    writer.append(Sample(way, size, 0, run, value, 3.0 * size))
    return sizes_report.summarise(sizes_report.read(tmp_path), list(seconds))


def test_summary_by_hand(tmp_path: Path) -> None:
    """Quadratic and linear growth; means differ from medians."""
    quadratic = {size * MB: [0.01 * size**2] * 3 for size in (1, 2, 4)}
    linear = {size * MB: [0.1 * size, 0.1 * size, 0.4 * size] for size in (2, 1)}
    summary = made(tmp_path, {Way("rpyc"): quadratic, UNARY: linear})
    assert tuple(summary.columns) == sizes_report.SUMMARY
    assert summary["way"].tolist() == ["rpyc"] * 3 + ["grpc unary"] * 2
    assert summary["bytes"].tolist() == [MB, 2 * MB, 4 * MB, MB, 2 * MB]
    np.testing.assert_allclose(summary["exponent"], [np.nan, 2, 2, np.nan, 1])
    assert sizes_report.medians(summary)["rpyc", 4 * MB] == pytest.approx(0.16)
    last = summary.iloc[-1]
    assert (last["n"], last["median"], last["wire_bytes"]) == (3, 0.2, 6 * MB)
    assert last["mean"] == pytest.approx(0.4)
    assert last["std"] == pytest.approx(np.std([0.2, 0.2, 0.8], ddof=1))
    assert last["megabytes_per_second"] == pytest.approx(2 * 2 / 0.2)


@pytest.mark.parametrize(
    ("stream", "unary", "expected"),
    [
        ({1: 2, 2: 2, 4: 2}, {1: 1, 2: 3, 4: 4}, 2),
        ({1: 1, 2: 4, 4: 2}, {1: 2, 2: 3, 4: 4}, 4),  # faster at the smallest, slower in between
        ({1: 1, 2: 1}, {1: 2, 2: 2, 4: 9}, 1),  # only one way was measured at size 4
        ({1: 1, 2: 4}, {1: 2, 2: 3}, None),
        ({1: 2}, {1: 2}, None),
        ({}, {1: 2}, None),
    ],
)
def test_the_size_from_which_one_way_is_faster(
    stream: dict[int, int], unary: dict[int, int], expected: int | None
) -> None:
    found = {(STREAM.name, size): float(value) for size, value in stream.items()}
    found |= {(UNARY.name, size): float(value) for size, value in unary.items()}
    assert sizes_report.wins_from(found, STREAM, UNARY) == expected


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ([], 0),
        ([(4, 0.01)], 0),  # too short to extrapolate
        ([(4, 1.0)], 2),
        ([(2, 0.25), (4, 1.0)], 4),
        ([(2, 0.99), (4, 1.0)], 2),  # never less than linear
        ([(2, 0.001), (4, 1.0)], 4),  # nor more than quadratic
    ],
)
def test_predicted_seconds_of_a_size(known: list[tuple[int, float]], expected: float) -> None:
    assert predicted(known, 8) == pytest.approx(expected)
