"""`--kill`: the flag, the records, the report, and a real kill."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from cluster.errors import Draining, NoServer, NotAwaited, StageFailed
from experiments import run
from experiments.measure.fault_injector import FaultInjector
from experiments.reports import report
from experiments.reports.faults import recoveries
from experiments.spec.experiment import Cell
from experiments.spec.flags import parse
from experiments.spec.schedule import Kill
from experiments.store import faults, files, samples
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    ResourceExhausted,
    UsageError,
    WireError,
)

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

CELL = Cell("grpc", "submodel")
UNREACHABLE = ConnectError("server 1: gone")


@pytest.mark.parametrize("text", ["node-1@20", "1@20"])
def test_a_kill_names_a_node_and_a_request(text: str) -> None:
    assert Kill.parse(text) == Kill(1, 20)
    assert Kill.parse(text).name == "node-1"


REFUSED = [
    (["--kill", "registry@3"], "--kill: 'registry@3' is not of the form NODE@REQUEST, for example node-1@20"),
    (["--kill", "node-5@3"], "--kill: there is no node-5; valid: node-0, node-1, node-2, node-3, node-4"),
    (["--kill", "node-4@3", "--servers", "2", "--replicas", "2"], "valid: node-0, node-1, node-2, node-3"),
    (
        ["--kill", "node-2@3", "--mode", "submodel", "--servers", "2,3"],
        "--kill: node-2 holds nothing for cell grpc/submodel/nested/eager/raw/b1/s2; valid: node-0, node-1",
    ),
    (
        ["--kill", "node-1@3", "--mode", "whole,submodel", "--servers", "2", "--replicas", "2"],
        "--kill: node-1 holds nothing for cell grpc/whole/nested/eager/raw/b1/s1; valid: node-0, node-2",
    ),
    (["--kill", "node-1@50"], "--kill: there is no timed request 50; valid: 0 to 49"),
    (["--kill", "node-1@3", "--transport", "none"], "with the transport none alone, no cell has nodes"),
    (["--kill", "node-1@3", "--pin", "on"], "leave --pin off"),
    (["--lease", "0.1"], "--lease: 0.1 is too small; valid: 0.2 to 86400 seconds"),
    (["--replicas", "0"], "--replicas: 0 is too small; valid: 1 to 64"),
    (["--repeats", "0,-1"], "--repeats: -1 is too small; valid: 0 to 10000000"),
]


@pytest.mark.parametrize(("argv", "message"), REFUSED, ids=[" ".join(argv) for argv, _ in REFUSED])
def test_a_kill_without_a_target_is_refused(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parse(argv)
    assert message in str(error.value)


def test_a_kill_may_name_a_node_that_every_cell_uses() -> None:
    flags = ["--mode", "whole,submodel", "--transport", "none,grpc", "--servers", "2", "--replicas", "2"]
    assert parse([*flags, "--kill", "node-2@3"])[0].kill == "node-2@3"


def test_none_has_no_repeats() -> None:
    made = parse(["--transport", "none,grpc", "--repeats", "0,3"])[0].cells
    assert [(cell.transport, cell.repeats) for cell in made] == [("none", 0), ("grpc", 0), ("grpc", 3)]


class Clock:
    now = 10.0

    def __call__(self) -> float:
        return self.now


def test_a_kill_happens_once_per_cell_and_explains_failures_for_a_while(tmp_path: Path) -> None:
    clock, killed = Clock(), []
    log = faults.writer(tmp_path)
    injector = FaultInjector(Kill(1, 3), killed.append, log, clock, patience=5.0)
    injector.before(CELL, 2)
    assert not injector.expected(CELL, UNREACHABLE)
    for _ in range(2):
        injector.before(CELL, 3)
    assert killed == ["node-1"]
    assert injector.expected(CELL, UNREACHABLE)
    assert not injector.expected(Cell("rpyc", "submodel"), UNREACHABLE)
    injector.failed(CELL, 3, 9.5, ConnectError("server 1: gone,\nreally"))
    clock.now += 6
    assert not injector.expected(CELL, UNREACHABLE)
    log.close()
    rows = faults.read(tmp_path).drop(columns="cell").to_numpy().tolist()
    assert rows == [
        [3, 10.0, 0.0, "kill", "node-1", ""],
        [3, 9.5, 0.5, "failed", "connect", "server 1: gone,\nreally"],
    ]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionLost("gone"), True),
        (DeadlineExceeded("late"), True),
        (Draining("the server is ending"), True),
        (NoServer("no server holds stage 's'"), True),
        (ResourceExhausted("full"), True),
        (StageFailed("a bug"), False),
        (MalformedMessage("a bug"), False),
        (NotAwaited("a bug"), False),
    ],
)
def test_which_errors_a_kill_explains(error: WireError, expected: bool, tmp_path: Path) -> None:
    with faults.writer(tmp_path) as log:
        injector = FaultInjector(Kill(1, 0), lambda _: None, log, Clock(), patience=5.0)
        injector.before(CELL, 0)
        assert injector.expected(CELL, error) is expected


def test_the_seconds_of_a_failure_exclude_the_replacement_of_the_node(tmp_path: Path) -> None:
    clock, replacing, stamp_read = Clock(), threading.Event(), threading.Event()

    def stamped() -> float:
        now = clock.now
        if threading.current_thread() is failing:
            stamp_read.set()
        return now

    def replace(_: str) -> None:
        replacing.set()
        assert stamp_read.wait(10)
        clock.now += 3

    with faults.writer(tmp_path) as log:
        injector = FaultInjector(Kill(1, 0), replace, log, stamped, patience=5.0)
        failing = threading.Thread(target=injector.failed, args=(CELL, 1, 9.0, UNREACHABLE))
        killing = threading.Thread(target=injector.before, args=(CELL, 0))
        killing.start()
        assert replacing.wait(10)
        failing.start()
        failing.join()
        killing.join()
    assert faults.read(tmp_path)["seconds"].tolist() == [0.0, 1.0]


def test_recoveries_by_hand(make_results: Maker) -> None:
    folder = make_results([CELL], runs=0, kill="node-1@1")
    (folder / files.SAMPLES).unlink()
    with samples.Writer(folder) as writer:
        for run, (start, repeated) in enumerate([(1.0, 1), (1.875, 1), (2.5, 0), (3.0, 2), (4.0, 0)]):
            writer.append(samples.Sample(CELL, run, 0.25, 0, start=start, repeated=repeated))
    with faults.writer(folder) as log:
        log.append(faults.Fault(CELL, 1, 2.0, 0.0, "kill", "node-1"))
        for run, start in ((2, 1.5), (2, 1.96875), (3, 2.0), (3, 2.125)):
            log.append(faults.Fault(CELL, run, start, 0.0625, "failed", "connect", "gone"))
        log.append(faults.Fault(Cell("rpyc", "submodel"), 1, 2.0, 9.0, "failed", "connect", "of another cell"))
    (found,) = recoveries(faults.read(folder), samples.read(folder))
    assert found == {
        "cell": CELL.name,
        "node": "node-1",
        "request": 1,
        "failed": 2,  # runs 2 and 3
        "attempts": 3,  # the first failure of run 2 was before the kill
        "repeated": 2,
        "answered": 0.75,
        "undisturbed": 1.25,
    }
    text = report.build(folder).read_text()
    (row,) = (line.split("|") for line in text.splitlines() if "| node-1 |" in line)
    assert [field.strip() for field in row[2:-1]] == ["node-1", "1", "2", "3", "2", "0.750", "1.25"]


def test_a_report_of_a_kill_compares_no_means(make_results: Maker) -> None:
    """If a client repeats a request, its seconds include the outage; if the request begins again, they do not."""
    folder = make_results([CELL, Cell("grpc", "submodel", repeats=8)], kill="node-1@20")
    with faults.writer(folder) as log:
        log.append(faults.Fault(CELL, 20, 2.0, 0.0, "kill", "node-1"))
    text = report.build(folder).read_text()
    assert "cannot be compared" in text
    assert "| node-1 |" in text
    for absent in ("Mean (s)", "x / Local", "comparison.svg"):
        assert absent not in text
    assert not (folder / "comparison.svg").exists()


def test_a_failed_request_counts_as_disturbed_until_its_answer(make_results: Maker) -> None:
    """Its last failed attempt does not end the disturbance."""
    folder = make_results([CELL], runs=0)
    (folder / files.SAMPLES).unlink()
    with samples.Writer(folder) as writer:
        for run, start in enumerate([1.0, 3.0, 4.0]):
            writer.append(samples.Sample(CELL, run, 0.25, 0, start=start))
    with faults.writer(folder) as log:
        log.append(faults.Fault(CELL, 1, 2.0, 0.0, "kill", "node-1"))
        log.append(faults.Fault(CELL, 1, 2.0, 0.5, "failed", "connect", "gone"))
    (found,) = recoveries(faults.read(folder), samples.read(folder))
    assert (found["answered"], found["undisturbed"]) == (1.25, 1.25)


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    with faults.writer(tmp_path) as log:
        log.append(faults.Fault(CELL, 1, 2.0, 0.0, "kill", "node-1"))
    with (tmp_path / files.FAULTS).open("a") as file:
        file.write("cell,1,2.0,0.5,fai")
    assert list(faults.read(tmp_path)["event"]) == ["kill"]


@pytest.mark.slow
def test_a_node_is_killed_and_replaced_during_an_experiment(model: Path, tmp_path: Path) -> None:
    """Without repeats, requests fail until another node has the killed node's portion; with repeats none fails."""
    flags = ["--model", model, "--mode", "submodel", "--servers", 2, "--flow", "nested,forward"]
    flags += ["--runs", 12, "--kill", "node-1@4", "--lease", 1, "--repeats", "0,20", "--out", tmp_path / "out"]
    assert run.main([*map(str, flags)]) == 0
    frame = samples.read(tmp_path / "out")
    assert frame.groupby("cell").size().tolist() == [12] * 5
    found = recoveries(faults.read(tmp_path / "out"), frame)
    assert [kill["node"] for kill in found] == ["node-1"] * 4
    for kill in found:
        patient = kill["cell"].endswith("repeats=20")
        assert (kill["failed"] == 0) is patient
        assert kill["attempts"] >= kill["failed"]
        assert (kill["repeated"] > 0) is patient
        assert kill["answered"] > 0
        assert kill["undisturbed"] > 0
    assert "## Faults" in (tmp_path / "out" / "report.md").read_text()
