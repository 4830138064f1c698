"""Runtimes in an experiment, and that nothing of them is left behind, however their client ends."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.store import samples
from tests.cluster.runtimes.conftest import Left, usable
from tests.experiments.conftest import model  # noqa: F401 - a fixture
from tests.running import ROOT, Run

CLIENT = """
import contextlib, sys
import numpy as np
from cluster import runtimes
from cluster.launchers import LocalLauncher
from cluster.partition import Partition
from cluster.runtimes.base import Setup
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.models import sequential

program = read(sequential())
plan = make_plan(program.graph, "whole", "equal", 1)
partition = Partition("whole", plan, dict.fromkeys(plan.by_name, 0), ("graph",))
with contextlib.ExitStack() as stack:
    launcher = stack.enter_context(LocalLauncher())
    for name in ("tf-runtime", "sockets", "ray-graph"):
        kind = runtimes.load(name)
        system = stack.enter_context(kind.processes(launcher, Setup({partition: program}, threads=1)))
        infer = stack.enter_context(kind(system).deploy(partition, "graph"))
        infer({"x": np.zeros((1, 6), np.float32)}, 30.0)
    print("deployed", flush=True)
    sys.stdin.read()
"""

INTERRUPTED = """
import numpy as np
from cluster.launchers import LocalLauncher
from cluster.partition import Partition
from cluster.runtimes import ray_runtimes
from cluster.runtimes.base import Setup
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.models import sequential

class Interrupting:
    def array(self, held):
        raise KeyboardInterrupt

program = read(sequential())
plan = make_plan(program.graph, "whole", "equal", 1)
partition = Partition("whole", plan, dict.fromkeys(plan.by_name, 0), ("graph",))
try:
    with (
        LocalLauncher() as launcher,
        ray_runtimes.Ray(launcher, Setup({partition: program}, threads=1)) as system,
        ray_runtimes.RayGraph(system).deploy(partition, "graph") as infer,
    ):
        inputs = {"x": np.zeros((1, 6), np.float32)}
        infer(inputs, 30.0)
        ray_runtimes.np = Interrupting()
        infer(inputs, 30.0)
except KeyboardInterrupt:
    print("interrupted")
"""
"""An interrupt while the client holds an answer of Ray's, before it has copied it."""


@pytest.mark.slow
def test_an_answer_that_an_interrupted_request_holds_does_not_crash_the_client() -> None:
    usable("ray-graph")
    ended = subprocess.run([sys.executable, "-c", INTERRUPTED], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (0, "interrupted\n"), ended.stderr


@pytest.mark.slow
def test_nothing_is_left_behind_when_the_client_is_killed() -> None:
    usable("ray-graph")
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as client:
        assert client.stdout is not None
        assert client.stdout.readline() == "deployed\n"
        left = Left(client.pid)
        assert left.semaphores()
        client.kill()
    left.assert_gone()


@pytest.mark.slow
def test_an_experiment_measures_runtimes_like_transports_and_ends_by_ctrl_c(
    model: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    usable("ray")
    words = ("--model", model, "--transport", "none,ray,ray-graph,tf-runtime", "--mode", "submodel", "--servers", 2)
    more = ("--engine", "frozen", "--insecure", "on", "--threads", 1, "--runs", 1000, "--out", tmp_path / "out")
    with Run(*words, *more) as going:
        going.wait_for("500/5000 requests")
        left = Left(going.process.pid)
        going.process.send_signal(signal.SIGINT)
        status, last = going.finish()
    assert status == 130, last
    left.assert_gone()
    frame = samples.read(tmp_path / "out")
    known = ["messages", "payload_bytes", "lookups", "connects", "compute_seconds", "queue_seconds"]
    for name, group in frame.groupby("transport"):
        assert len(group) >= 50
        assert group[known].notna().all().all() == (name == "none")
        assert (group["deviation"] < 1e-3).all()
    assert (frame.loc[frame["transport"].isin(["ray", "tf-runtime"]), "wire_bytes"] > 0).all()
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(title in report for title in ("Ray actors", "Ray compiled graph", "TensorFlow runtime"))
