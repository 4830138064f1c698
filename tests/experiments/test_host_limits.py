"""Hosts that are parts of this machine: their nodes keep to the threads, cores, share of a core and memory given."""

from __future__ import annotations

from pathlib import Path

import keras
import pandas as pd
import psutil
import pytest
from keras import layers

from cluster.resource_limits import Limits, check
from experiments.store import environment, nodes, samples
from tests.running import Run, assert_gone, below
from transports.errors import UsageError

SHARE = 0.25


def groups(launcher: int) -> list[Path]:
    """The control groups that the launcher with this process id has made."""
    return [path for path in Path("/sys/fs/cgroup").rglob(f"splitbench-{launcher}-*") if path.is_dir()]


@pytest.fixture(autouse=True)
def possible() -> None:
    """Skip the test where no control group can be made."""
    try:
        check(Limits(cpu=SHARE, memory=2**28))
    except UsageError as error:
        pytest.skip(str(error))


def words(tmp_path: Path, limits: str, *more: object) -> tuple[object, ...]:
    text = f'[[host]]\nname = "small"\nservers = [0]\n{limits}\n[[host]]\nname = "large"\nservers = [1]\nthreads = 1\n'
    (tmp_path / "hosts.toml").write_text(text)
    return ("--hosts", tmp_path / "hosts.toml", "--on", "small,large", "--mode", "whole", "--transport", "tcp", *more)


def busy() -> keras.Model:
    """Few operations, each of which computes for long."""
    x = made = keras.Input((96, 96, 3), name="image")
    for number in range(3):
        made = layers.Conv2D(32, 3, name=f"convolution_{number}")(made)
    return keras.Model(x, layers.Dense(4, name="head")(layers.GlobalAveragePooling2D(name="pool")(made)))


def launcher_of(going: Run) -> int:
    (launcher,) = psutil.Process(going.process.pid).children()
    return launcher.pid


def named(going: Run, name: str) -> psutil.Process:
    return next(process for process, own in below(going.process.pid).items() if own == name)


@pytest.mark.alone
@pytest.mark.slow
def test_a_host_has_its_share_its_cores_and_its_threads(tmp_path: Path) -> None:
    out = tmp_path / "out"
    busy().save(tmp_path / "busy.keras")
    given = words(tmp_path, f"cpu = {SHARE}\nthreads = 1\ncores = [0]", "--model", tmp_path / "busy.keras")
    with Run(*given, "--runs", 5, "--batch", 4, "--out", out) as going:
        going.wait_for("requests")
        small, large, launcher = named(going, "node-0"), named(going, "node-1"), launcher_of(going)
        assert small.cpu_affinity() == [0]
        assert "splitbench" in Path(f"/proc/{small.pid}/cgroup").read_text()
        assert "splitbench" not in Path(f"/proc/{large.pid}/cgroup").read_text()
        assert groups(launcher)
        status, last = going.finish()
    assert status == 0, last
    assert not groups(launcher)
    used = nodes.read(out)
    row = used[(used["node"] == "node-0") & used["cell"].str.contains("on=small")].iloc[0]
    frame = samples.read(out)
    times = frame[frame["on"] == "small"]
    # The node's CPU seconds and requests include an untimed request before the first timed one.
    wall = (times["start"] + times["seconds"]).max() - times["start"].min()
    counted = row["cpu_seconds"] * len(times) / row["requests"]
    assert counted <= wall * SHARE * 1.25
    least = frame.groupby("on")["seconds"].min()
    assert least["small"] > 2 * least["large"]  # the small host waits three quarters of the time
    assert_shown(out, used)


def assert_shown(out: Path, used: pd.DataFrame) -> None:
    assert set(zip(used["node"], used["host"], strict=True)) == {("node-0", "small"), ("node-1", "large")}
    assert f"threads 1, cores [0], cpu {SHARE}" in (out / "report.md").read_text().replace("\\", "")


@pytest.mark.slow
def test_a_node_that_exceeds_its_memory_ends_the_run_with_the_cause(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with Run(*words(tmp_path, "memory = 4000000", "--model", model, "--out", out)) as going:
        going.wait_for("exported")
        launcher = launcher_of(going)
        status, last = going.finish(120)
    assert status == 1
    assert not groups(launcher)
    assert last.startswith("error: node-0")
    assert last.endswith("was ended by SIGKILL: it needed more memory than its limit, `memory` of its host")
    assert "SIGKILL" in environment.read(out)["failure"]


@pytest.mark.slow
def test_a_killed_run_leaves_no_group(model: Path, tmp_path: Path) -> None:
    given = words(tmp_path, "cpu = 0.5\nmemory = 2000000000", "--model", model, "--runs", 1_000_000)
    with Run(*given, "--out", tmp_path / "out") as going:
        going.wait_for("requests")
        processes, launcher = going.cluster(), launcher_of(going)
        assert groups(launcher)
        going.process.kill()
        assert_gone(processes)
    assert not groups(launcher)
