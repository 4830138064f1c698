"""Runs whose servers are on hosts with emulated links: seconds, bytes, records, reports, and runs that end early."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from experiments.measure import wire
from experiments.reports import report
from experiments.store import environment, files, nodes, samples
from partitioning.plan import Plan
from tests.running import Run, assert_gone

BATCH = 100
LINKS = "client<->near rtt:20ms; near<->cloud rtt:0.01s; cloud->client delay:30ms"
CANONICAL = "client<->near rtt:20ms; near<->cloud rtt:10ms; cloud->client delay:30ms"
SPEC = f"""
transport = ["none", "tcp", "grpc"]
mode = "submodel"
flow = ["nested", "hub", "forward"]
servers = 2
engine = "frozen"
batch = {BATCH}
runs = 6
on = "near+cloud"
link = ["", "{LINKS}", "{CANONICAL}"]
[[host]]
name = "edge"
labels = {{ tier = "near" }}
servers = [0]
threads = 1
[[host]]
name = "spare"
[[host]]
name = "cloud"
servers = [1]
slowdown = 10
"""
"""A host that holds no server is allowed. The two texts with links mean the same links."""
LEAST = {"nested": 0.010 + 0.005 + 0.005 + 0.010, "hub": 0.010 + 0.010 + 0.030, "forward": 0.010 + 0.005 + 0.030}
"""Flow -> the sum of the links' delays, in seconds, for which a request waits."""


@dataclass(frozen=True)
class Ended:
    out: str
    folder: Path


@pytest.fixture(scope="module")
def ended(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    root = tmp_path_factory.mktemp("linked")
    (root / "linked.toml").write_text(SPEC)
    with Run("--model", model, "--spec", root / "linked.toml", "--out", root / "out") as going:
        status, last = going.finish()
        assert status == 0, last
    return Ended(going.out, root / "out")


@pytest.fixture(scope="module")
def frame(ended: Ended) -> pd.DataFrame:
    return samples.read(ended.folder)


@pytest.mark.alone
@pytest.mark.slow
def test_bytes_on_the_wire_are_counted_once(frame: pd.DataFrame) -> None:
    """Other programs add bytes to some requests. As the first test, this one makes the run, and is marked `alone`."""
    if math.isnan(wire.sent()):
        pytest.skip("no loopback interface has a counter here")
    least = frame[frame["transport"] != "none"].groupby(["transport", "flow", "link"])["wire_bytes"].min().unstack()
    assert (least[CANONICAL] / least[""]).to_numpy() == pytest.approx(np.ones(6), abs=0.02)


@pytest.mark.slow
def test_equal_links_are_one_cell_and_none_has_no_links(frame: pd.DataFrame) -> None:
    links = frame.groupby("transport")["link"].unique().map(sorted).to_dict()
    assert links == {"none": [""], "tcp": ["", CANONICAL], "grpc": ["", CANONICAL]}
    assert frame.groupby("cell").size().to_dict() == dict.fromkeys(frame["cell"].unique(), 6)
    assert frame["cell"].nunique() == 1 + 3 + 2 * 2 * 3


@pytest.mark.slow
def test_a_request_takes_the_time_of_its_ways(frame: pd.DataFrame) -> None:
    linked = frame[frame["link"] != ""]
    assert (linked["seconds"] >= linked["flow"].map(LEAST) - 1e-3).all()
    least = frame.groupby(["transport", "flow", "link"])["seconds"].min()
    for (_, flow, link), seconds in least.items():
        assert link or seconds < LEAST[flow]  # the fastest of several requests


@pytest.mark.slow
def test_stages_on_a_host_with_a_slowdown_take_longer(ended: Ended, frame: pd.DataFrame) -> None:
    """Over `none` the nodes are in the process of the run, on no host."""
    least = frame.groupby("transport")["compute_seconds"].min()
    assert (least[["tcp", "grpc"]] > 2 * least["none"]).all()
    assert "slowdown 10" in (ended.folder / "report.md").read_text()


def bytes_of(plan: Plan, flow: str) -> Mapping[str, tuple[int, int]]:
    """Node -> (bytes received, bytes sent) for a request, from the shapes of a plan with two stages."""
    size = {
        name: BATCH * math.prod(edge.shape[1:]) * np.dtype(edge.dtype).itemsize  # type: ignore[type-var]
        for name, edge in plan.edges.items()
    }
    first, last = plan.stages
    taken = [sum(size[name] for name in stage.inputs) for stage in (first, last)]
    crossing, made = sum(size[name] for name in first.outputs), sum(size[name] for name in last.outputs)
    returned = made if flow == "nested" else 0
    return {"node-0": (taken[0] + returned, crossing + returned), "node-1": (taken[1], made)}


@pytest.mark.slow
def test_cells_on_hosts_and_over_links_are_compared_with_none(ended: Ended) -> None:
    summary = pd.read_csv(ended.folder / files.SUMMARY)
    remote = summary[summary["transport"] != "none"]
    mean = summary[(summary["transport"] == "none") & (summary["mode"] == "submodel")].set_index("flow")["mean"]
    assert remote["ratio_to_none"].to_numpy() == pytest.approx(remote["mean"] / remote["flow"].map(mean))


@pytest.mark.slow
def test_each_node_used_what_the_plan_says(ended: Ended) -> None:
    plan = Plan.from_json((ended.folder / "plan-submodel-s2-contiguous-equal-near+cloud.json").read_text())
    used, settings = nodes.read(ended.folder), samples.read(ended.folder).drop_duplicates("cell").set_index("cell")
    assert set(used["cell"]) == set(settings[settings["transport"] != "none"].index)
    assert set(zip(used["node"], used["host"], strict=True)) == {("node-0", "edge"), ("node-1", "cloud")}
    for row in used.itertuples():
        received, sent = bytes_of(plan, settings.loc[row.cell, "flow"])[str(row.node)]
        assert (row.received_bytes, row.sent_bytes) == (received * row.requests, sent * row.requests), row
        assert row.cpu_seconds > 0
        assert row.peak_bytes > 50e6


@pytest.mark.slow
def test_the_report_is_derived_again_byte_for_byte_and_names_the_links(ended: Ended) -> None:
    written = {path.name: path.read_bytes() for path in ended.folder.iterdir()}
    text = report.build(ended.folder).read_text()
    assert written == {path.name: path.read_bytes() for path in ended.folder.iterdir()}
    assert f"link 1: {CANONICAL}" in " ".join(ended.out.split())
    details = (ended.folder / "cells.md").read_text()
    listed = details[details.index("## Nodes") : details.index("## How to read this")]
    assert "TCP, forward, on near+cloud, link 1 " in listed
    assert "link 1: client\\<-\\>near rtt:20ms" in listed
    assert "**Emulated**" in text
    for odd in ("on ,", "link ,", "link |", ", ,"):
        assert odd not in text + details


@pytest.mark.slow
def test_the_record_has_the_hosts_and_no_address(ended: Ended) -> None:
    record = environment.read(ended.folder)
    assert [(host["name"], host["servers"]) for host in record["experiment"]["machines"]] == [
        ("edge", [0]),
        ("spare", []),
        ("cloud", [1]),
    ]
    assert "127.0.0.1" not in json.dumps(record["machines"])
    with pytest.raises(FileNotFoundError):
        (ended.folder / files.FAULTS).read_text()


FOREVER = (
    *("--hosts", "edge:1,cloud:1", "--link", "edge<->cloud rtt:2ms"),
    *("--mode", "submodel", "--servers", 2, "--transport", "tcp", "--runs", 1_000_000),
)


def relay_of(processes: list[psutil.Process]) -> psutil.Process:
    return next(process for process in processes if process.name() == "relay-0")


@pytest.mark.slow
def test_a_relay_that_dies_ends_the_run_with_the_cause(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Run("--model", model, *FOREVER, "--out", out) as going:
        going.wait_for("requests")
        processes = going.cluster()
        relay_of(processes).kill()
        status, last = going.finish(60)
    assert (status, last) == (1, "error: relay between cloud and edge was ended by SIGKILL")
    assert_gone(processes)
    assert len(samples.read(out)) >= 1
    assert "INCOMPLETE" in (out / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_a_run_that_ends_early_leaves_no_relay(
    number: signal.Signals, status: int, model: Path, tmp_path: Path
) -> None:
    with Run("--model", model, *FOREVER, "--out", tmp_path / "out") as going:
        going.wait_for("requests")
        processes = going.cluster()
        assert relay_of(processes).is_running()
        going.process.send_signal(number)
        assert going.finish(60)[0] == status
        assert_gone(processes)
    assert len(samples.read(tmp_path / "out")) >= 1


FAR = """
transport = "none"
engine = "tfserving"
mode = ["whole", "submodel"]
servers = 2
runs = 6
link = ["", "client<->server-0 rtt:60ms"]
[option]
tfserving.binary = "none"
"""


@pytest.mark.slow
def test_over_none_the_calls_to_model_servers_cross_links(model: Path, tmp_path: Path) -> None:
    """Only the calls to the linked server cross the link, and only in cells with the link."""
    (spec := tmp_path / "far.toml").write_text(FAR)
    with Run("--model", model, "--spec", spec, "--out", tmp_path / "out") as run:
        assert run.finish()[0] == 0, run.lines
    frame = samples.read(tmp_path / "out")
    split = frame[frame["engine"] == "tfserving"]
    assert split.groupby(["mode", "link"]).size().to_dict() == {
        (mode, link): 6 for mode in ("whole", "submodel") for link in ("", "client<->server-0 rtt:60ms")
    }
    linked = split["link"] != ""
    assert split[linked]["seconds"].min() >= 0.06
    assert split[~linked]["seconds"].min() < 0.06
    assert (split["wire_bytes"] > 0).all()
