"""Control groups: trees of files as the kernel writes them, and a real group where one can be made."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from partitioning.control_groups import Grant, read
from tests.running import ROOT

MB, NONE = 2**20, "9223372036854771712"
V1 = "36 25 0:31 {mounted} /sys/fs/cgroup/{name} rw,nosuid - cgroup cgroup rw,{name}\n"
V2 = "30 23 0:26 {mounted} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def cpu(quota: int) -> dict[str, str]:
    return {"cpu.cfs_quota_us": str(quota), "cpu.cfs_period_us": "100000"}


def old_memory(limit: int | str, taken: int = 0, files: int = 0) -> dict[str, str]:
    stat = f"inactive_file 0\ntotal_inactive_file {files}\n"
    return {"memory.limit_in_bytes": str(limit), "memory.usage_in_bytes": str(taken), "memory.stat": stat}


def memory(limit: int | str, taken: int = 0, files: int = 0) -> dict[str, str]:
    return {"memory.max": str(limit), "memory.current": str(taken), "memory.stat": f"inactive_file {files}\n"}


TREES: Mapping[str, tuple[str, str, Mapping[str, Mapping[str, str]], Grant]] = {
    "version 2 in a container": (
        "0::/\n",
        V2.format(mounted="/"),
        {"": {"cpu.max": "200000 100000", **memory(3072 * MB, 1024 * MB, 24 * MB)}},
        Grant(2.0, 3072 * MB, 2072 * MB),
    ),
    "version 2, nested: the least counts": (
        "0::/user.slice/mine\n",
        V2.format(mounted="/"),
        {
            "user.slice": {"cpu.max": "150000 100000", **memory(900 * MB, 800 * MB)},
            "user.slice/mine": {"cpu.max": "400000 100000", **memory(500 * MB, 100 * MB)},
            "user.slice/other": {"cpu.max": "1000 100000", **memory(MB)},
        },
        Grant(1.5, 500 * MB, 100 * MB),
    ),
    "version 2 without limits": (
        "0::/mine\n",
        V2.format(mounted="/"),
        {"mine": {"cpu.max": "max 100000", **memory("max", 100 * MB)}},
        Grant(),
    ),
    "version 1 in a container: its group is the root of the mounts": (
        "4:memory:/docker/ab\n3:cpu,cpuacct:/docker/ab\n",
        V1.format(mounted="/docker/ab", name="cpu") + V1.format(mounted="/docker/ab", name="memory"),
        {"cpu": cpu(50_000), "memory": old_memory(1024 * MB, 1023 * MB, 10 * MB)},
        Grant(0.5, 1024 * MB, 11 * MB),
    ),
    "version 1, nested, and an empty hierarchy of version 2 beside it": (
        "4:memory:/a/b\n3:cpu:/a/b\n0::/\n",
        V1.format(mounted="/", name="cpu") + V1.format(mounted="/", name="memory") + V2.format(mounted="/"),
        {
            "cpu": cpu(-1),
            "cpu/a": cpu(300_000),
            "cpu/a/b": cpu(-1),
            "memory/a": old_memory(64 * MB, 65 * MB),
            "memory/a/b": old_memory(NONE, 65 * MB),
        },
        Grant(3.0, 64 * MB, 0),
    ),
    "a system without control groups": ("", "", {}, Grant()),
}


@pytest.mark.parametrize("case", TREES)
def test_the_least_grant_along_the_path(case: str, tmp_path: Path) -> None:
    paths, mounts, groups, expected = TREES[case]
    (own := tmp_path / "proc" / "self").mkdir(parents=True)
    (own / "cgroup").write_text(paths)
    (own / "mountinfo").write_text("23 1 8:1 / / rw,relatime - ext4 /dev/sda rw\n" + mounts)
    for group, files in groups.items():
        (folder := tmp_path / "sys/fs/cgroup" / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text)
    assert read(tmp_path) == expected


LIMIT = 1500 * MB
LIMITS = {"cpu": {"cpu.cfs_quota_us": "100000"}, "memory": {"memory.limit_in_bytes": str(LIMIT)}}
V2_LIMITS = {"cpu.max": "100000 100000", "memory.max": str(LIMIT)}


@pytest.fixture
def group() -> Iterator[list[Path]]:
    """The folders of a real control group of one core and `LIMIT` bytes."""
    base, made = Path("/sys/fs/cgroup"), []
    name = f"splitbench-test-{os.getpid()}"
    tops = {base / top: files for top, files in LIMITS.items()} if (base / "cpu").is_dir() else {base: V2_LIMITS}
    try:
        for top, files in tops.items():
            (folder := top / name).mkdir()
            made.append(folder)
            for file, text in files.items():
                (folder / file).write_text(text)
        yield made
    except OSError as error:
        pytest.skip(f"no control group can be made here: {error}")
    finally:
        for folder in made:
            folder.rmdir()


GROUPED = """
import json, os, sys
from pathlib import Path
for group in json.loads(sys.argv[1]):
    (Path(group) / "cgroup.procs").write_text(str(os.getpid()))
from cluster.pinning import usable
from cluster.process import tune
from experiments import run
from cluster import facts
assert run.main(sys.argv[2:]) == 2
threads = tune(0, "default")["intra_op"]
print(json.dumps([usable(), threads, facts.granted(), facts.processor()["affinity"]]))
"""


def test_a_run_in_a_control_group_is_refused_before_it_is_killed(group: list[Path], tmp_path: Path) -> None:
    words = ["--transport", "none", "--batch", "5000", "--model", "MobileNetV3Small", "--out", str(tmp_path / "out")]
    command = [sys.executable, "-c", GROUPED, json.dumps([*map(str, group)]), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=200)
    assert done.stderr.splitlines()[-1].startswith("error: --batch: ")
    assert " are free; give at most " in done.stderr
    assert json.loads(done.stdout) == [1, 1, {"cores": 1.0, "memory_bytes": LIMIT}, len(os.sched_getaffinity(0))]
