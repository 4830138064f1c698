"""Runs with `--trace`: over every transport and flow, with a chain and branches; failed runs; runs on other hosts."""

from __future__ import annotations

import json
import signal
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pytest

import transports
from cluster.flow_table import FLOW_NAMES
from experiments import run
from experiments.reports import report
from experiments.spec.flags import parse
from experiments.store import environment, files, phases, samples, trace_file
from experiments.trace.__main__ import main as trace
from tests.lab import Lab, lab, needs_ssh
from tests.models import SHAPES
from tests.running import Run, assert_gone
from transports.errors import UsageError

PLANS = ("sequential", "fan-out")
"""Models in three submodels, each on a server of its own: a chain, and a model whose input goes to several servers."""

Event = Mapping[str, Any]


@dataclass(frozen=True)
class Traced:
    """A traced run."""

    folder: Path
    measured: pd.DataFrame
    phases: pd.DataFrame
    events: tuple[Event, ...]

    def traces(self) -> dict[tuple[str, int], list[Event]]:
        """(name of a cell, run) -> the events of that request."""
        by_trace: dict[str, list[Event]] = defaultdict(list)
        for event in self.events:
            by_trace[event["args"]["trace"]].append(event)
        roots = [event for event in self.events if not event["args"]["parent"]]
        return {(root["args"]["cell"], root["args"]["run"]): by_trace[root["args"]["trace"]] for root in roots}


def interval(event: Event) -> tuple[int, int]:
    """(begin, end) of an event, in nanoseconds."""
    begin = round(event["ts"] * 1e3)
    return begin, begin + round(event["dur"] * 1e3)


def read(folder: Path) -> Traced:
    found = json.loads((folder / files.TRACE).read_bytes())
    events = tuple(event for event in found if event["ph"] == "X")
    return Traced(folder, samples.read(folder), phases.read(folder), events)


@pytest.fixture(scope="module", params=PLANS)
def traced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Traced:
    folder = tmp_path_factory.mktemp(request.param)
    SHAPES[request.param]().save(folder / "model.keras")
    words = ["--model", str(folder / "model.keras"), "--engine", "frozen", "--mode", "submodel", "--servers", "3"]
    words += ["--transport", ",".join(transports.NAMES), "--flow", ",".join(FLOW_NAMES), "--trace"]
    assert run.main([*words, "--runs", "2", "--warmup", "1", "--out", str(folder / "out")]) == 0
    return read(folder / "out")


@pytest.mark.slow
def test_the_phases_of_each_request_sum_to_its_seconds(traced: Traced) -> None:
    measured = traced.measured.set_index(["cell", "run"])
    asked = measured[measured["trace"] == "on"]
    sums = traced.phases.groupby(["cell", "run"])[list(phases.PHASES)].sum().sum(axis=1)
    assert set(sums.index) == set(asked.index) == set(measured[measured["mode"] != "whole"].index)
    assert len(asked) == 2 * len(FLOW_NAMES) * len(transports.NAMES)
    assert ((sums / asked["seconds"]).between(0.95, 1.05)).all()
    computed = traced.phases.groupby(["cell", "run"])["compute"].sum()
    assert ((computed / asked["compute_seconds"]) <= 1.001).all()  # branches overlap
    chain = "sequential" in str(traced.folder)
    assert chain == bool((traced.phases["wait"] == 0).all())
    assert traced.phases["dropped"].sum() == traced.phases["clock_uncertainty"].sum() == 0


@pytest.mark.slow
def test_every_span_has_its_parent_and_lies_within_it(traced: Traced) -> None:
    """Two exceptions: deferred work may end after its message, and a wait for inputs begins before the last message."""
    found = traced.traces()
    assert set(found) == set(traced.phases.set_index(["cell", "run"]).index)
    assert sum(map(len, found.values())) == len(traced.events)
    for (cell, _), events in found.items():
        by_id = {event["args"]["span"]: event for event in events}
        assert len(by_id) == len(events)
        for event in events:
            if not (parent := by_id.get(event["args"]["parent"])):
                assert event["cat"] == "request"
                continue
            (begin, end), (first, last) = interval(event), interval(parent)
            assert begin >= first or event["cat"] == "wait"
            assert end <= last or event["cat"] == "work", (cell, event["name"], parent["name"])


@pytest.mark.slow
def test_spans_on_a_lane_follow_or_enclose_each_other(traced: Traced) -> None:
    of_lane: dict[tuple[int, int, str], list[tuple[int, int]]] = defaultdict(list)
    for event in traced.events:
        key = (event["pid"], event["tid"], event["args"]["trace"])
        of_lane[key].append(interval(event))
    for spans in of_lane.values():
        open_: list[int] = []
        for begin, end in sorted(spans, key=lambda each: (each[0], -each[1])):
            while open_ and open_[-1] <= begin:
                open_.pop()
            assert not open_ or end <= open_[-1]
            open_.append(end)


@pytest.mark.slow
def test_the_trace_reaches_every_node(traced: Traced) -> None:
    names = trace_file.read(traced.folder).processes
    assert sorted(names.values()) == ["client", "node-0", "node-1", "node-2"]
    for (cell, _), events in traced.traces().items():
        processes = {names[event["pid"]] for event in events}
        hops = {event["args"]["server"] for event in events}
        assert hops == {-1, 0, 1, 2}
        assert processes == ({"client"} if cell.startswith("none/") else set(names.values()))


@pytest.mark.slow
def test_the_report_and_the_command_show_the_phases(traced: Traced, capsys: pytest.CaptureFixture[str]) -> None:
    summary = pd.read_csv(traced.folder / files.SUMMARY).set_index("cell")
    assert summary.loc[summary["mode"] == "whole", list(phases.SUMMARY)].isna().all().all()
    on = summary[summary["trace"] == "on"]
    assert (on[[f"phase_{name}" for name in phases.PHASES]].sum(axis=1) / on["mean"]).between(0.95, 1.05).all()
    text = (traced.folder / files.REPORT).read_text()
    assert "## Where the time goes" in text
    written = {name: (traced.folder / name).read_bytes() for name in (files.REPORT, files.SUMMARY, files.PHASES_CHART)}
    report.build(traced.folder)
    assert written == {name: (traced.folder / name).read_bytes() for name in written}
    assert trace([str(traced.folder)]) == 0
    assert "INCOMPLETE" not in capsys.readouterr().out


@pytest.mark.slow
def test_under_load_the_phases_begin_at_the_intended_start(model: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "out", ["--model", str(model), "--mode", "submodel", "--servers", "2", "--transport", "tcp"]
    assert run.main([*words, "--load", "poisson:50/s", "--trace", "off,on", "--runs", "20", "--out", str(out)]) == 0
    found = read(out)
    seconds = found.measured[found.measured["trace"] == "on"].set_index(["cell", "run"])["seconds"]
    sums = found.phases.groupby(["cell", "run"])[list(phases.PHASES)].sum().sum(axis=1)
    assert len(sums) == 20
    assert ((sums / seconds).between(0.99, 1.01)).all()


def going(model: Path, out: Path) -> Run:
    words = ("--model", model, "--mode", "submodel", "--servers", 2, "--transport", "tcp", "--trace")
    return Run(*words, "--runs", 1000, "--out", out)  # a line at each tenth


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_keeps_what_it_traced(
    number: signal.Signals, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with going(model, out) as started:
        started.wait_for("requests")
        started.wait_for("requests")
        processes = started.cluster()
        started.process.send_signal(number)
        started.finish()
    assert_gone(processes)
    found = trace_file.read(out)
    assert found.spans
    assert not found.complete
    if number == signal.SIGINT:
        assert json.loads((out / files.TRACE).read_bytes())[-1]["args"] == {"complete": False}
    report.build(out)
    assert trace([str(out)]) == 0
    assert "INCOMPLETE" in capsys.readouterr().out


@pytest.mark.slow
def test_a_node_that_dies_leaves_a_trace_of_the_answered_requests(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with going(model, out) as started:
        started.wait_for("requests")
        started.wait_for("requests")  # some blocks have ended
        node = next(each for each in started.cluster() if each.name() == "node-1")
        node.kill()
        status, last = started.finish()
    assert (status, "node-1" in last) == (1, True)
    found = read(out)
    assert json.loads((out / files.TRACE).read_bytes())[-1]["args"] == {"complete": False}
    assert "node-1" in environment.read(out)["failure"]
    measured = found.measured[found.measured["trace"] == "on"].set_index(["cell", "run"])["seconds"]
    sums = found.phases.groupby(["cell", "run"])[list(phases.PHASES)].sum().sum(axis=1)
    assert len(sums) >= 1
    assert ((sums / measured).dropna().between(0.95, 1.05)).all()
    for events in found.traces().values():
        ids = {event["args"]["span"] for event in events}
        assert all(event["args"]["parent"] in {"", *ids} for event in events)


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    with lab() as made:
        yield made


@needs_ssh
@pytest.mark.slow
def test_clocks_of_other_hosts_are_read_with_their_uncertainty(hosts: Lab, model: Path, tmp_path: Path) -> None:
    """The hosts share this kernel's clock, so the estimated offset has to be 0 within its uncertainty."""
    words = (
        "--model",
        model,
        "--mode",
        "submodel",
        "--servers",
        2,
        "--transport",
        "tcp,grpc",
        "--flow",
        "nested,forward",
    )
    with Run(*hosts.flags(), *words, "--trace", "--runs", 6, "--out", tmp_path / "out", within=hosts.client) as started:
        status, last = started.finish()
    assert status == 0, last
    found = read(tmp_path / "out")
    seconds = found.measured[found.measured["trace"] == "on"].set_index(["cell", "run"])["seconds"]
    sums = found.phases.groupby(["cell", "run"])[list(phases.PHASES)].sum().sum(axis=1)
    assert ((sums / seconds).between(0.95, 1.05)).all()
    away = found.phases[found.phases["hop"] != "client"]
    assert len(away) == 4 * 6 * 2
    assert (away["clock_uncertainty"] > 0).all()
    assert (away["clock_offset"].abs() <= away["clock_uncertainty"]).all()
    assert "Clocks of other machines are known to within" in (tmp_path / "out" / files.REPORT).read_text()
    hosts.assert_nothing_left([psutil.Process(started.process.pid)] if started.process.poll() is None else [])


GIVEN = {
    "": (["--trace"], {"on"}),
    "both": (["--trace", "off,on"], {"off", "on"}),
    "off": (["--trace", "off"], {"off"}),
    "local": (["--trace", "--transport", "none", "--mode", "whole"], {"off"}),
    "beside a runtime": (["--trace", "--transport", "tcp,sockets"], {"on", "off"}),
}


@pytest.mark.parametrize("case", GIVEN)
def test_the_flag_makes_cells(case: str) -> None:
    words, values = GIVEN[case]
    experiment, _ = parse(words)
    assert {cell.trace for cell in experiment.cells} == values
    assert all(cell.name.endswith("/trace=on") == (cell.trace == "on") for cell in experiment.cells)


def test_a_file_may_ask_for_it(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('trace = ["off", "on"]\nmode = "submodel"')
    experiment, _ = parse(["--spec", str(tmp_path / "mine.toml")])
    assert [cell.trace for cell in experiment.cells] == ["off", "on"]


REFUSED = {
    "no node": (["--trace", "--transport", "sockets"], "--trace on: it has no effect on the transport 'sockets'"),
    "a kill": (["--trace", "--kill", "node-1@3"], "--kill: not with --trace on, since spans are lost with a node"),
    "another value": (["--trace", "yes"], "--trace: no trace 'yes'; valid: on, off"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_traced_is_refused(case: str) -> None:
    words, text = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        parse(words)
    assert text in str(refused.value).replace("(valid", "valid")
    assert "\n" not in str(refused.value)
