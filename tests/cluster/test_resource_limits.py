"""Limits of a process: real control groups where they can be made, and trees of files as the kernel writes them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from cluster.resource_limits import Group, Limits, check, make, sweep
from tests.running import ROOT
from transports.errors import UsageError

MB = 2**20
NOBODY = 65534
BASE = "import json, os, sys, time\nfrom pathlib import Path\nfrom cluster.resource_limits import *\n"
REPORT = "print(json.dumps([control_group().cores, control_group().memory, usable()]), flush=True)\n"
"""What a process sees of its limits."""
FORKING = (
    BASE
    + "from partitioning.control_groups import control_group\nfrom cluster.pinning import usable\ncontrol_group()\n"
    + f"group = make(Limits(0.25, {300 * MB}), 'server-0')\n"
    + "maker = os.getpid()\nif child := os.fork():\n    os.waitpid(child, 0)\n    group.remove()\n    sys.exit()\n"
    + f"group.join()\n{REPORT}sys.stdin.read()\n"
    + "if os.getppid() != maker:\n    group.leave()\n"
)
"""A process that makes a group, and a child, as the fork server starts it. The child ends with its standard input."""


@pytest.fixture
def groups() -> Iterator[Callable[[int], set[str]]]:
    """The names of the existing groups that a process has made. At the end, no group of this process may exist."""

    def look(maker: int) -> set[str]:
        return {path.name for path in Path("/sys/fs/cgroup").rglob(f"splitbench-{maker}-*") if path.is_dir()}

    try:
        check(Limits(cpu=0.5, memory=64 * MB))
    except UsageError as error:
        pytest.skip(str(error))
    yield look
    assert not look(os.getpid())


def python(text: str, *words: str) -> subprocess.Popen[str]:
    command, pipe = [sys.executable, "-c", text, *words], subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def in_group(group: Group, text: str) -> tuple[int, str]:
    """Run `text` in a process that was put into `group` before: (its exit status, its standard output)."""
    with python("import sys, time\nsys.stdin.read(1)\n" + text) as process:
        group.join(process.pid)
        out, _ = process.communicate("x", timeout=60)
    return process.returncode, out


def test_a_process_has_its_share_of_a_core(groups: Callable[[int], set[str]]) -> None:
    group = make(Limits(cpu=0.25), "burner")
    burn = "end = time.monotonic() + 1\nbefore = time.process_time()\nwhile time.monotonic() < end: pass\n"
    try:
        status, out = in_group(group, burn + "print(time.process_time() - before)")
    finally:
        group.remove()
    assert status == 0
    assert 0.15 <= float(out) <= 0.40


def test_a_process_that_takes_more_memory_is_killed(groups: Callable[[int], set[str]]) -> None:
    group = make(Limits(memory=64 * MB), "eater")
    try:
        assert in_group(group, f"print(len(b'x' * {8 * MB}))") == (0, f"{8 * MB}\n")
        assert not group.exceeded()
        assert in_group(group, f"print(len(b'x' * {256 * MB}))") == (-signal.SIGKILL, "")
        assert group.exceeded()
    finally:
        group.remove()


@pytest.mark.parametrize("killed", [False, True])
def test_a_child_sees_its_limits_and_no_group_is_left(killed: bool, groups: Callable[[int], set[str]]) -> None:
    """The parent has read its own limits before. If it is killed, the child removes the group."""
    with python(FORKING) as maker:
        assert maker.stdout is not None
        assert json.loads(maker.stdout.readline()) == [0.25, 300 * MB, 1]
        name = f"splitbench-{maker.pid}-server-0"
        assert groups(maker.pid) == {name}
        sweep()
        assert groups(maker.pid) == {name}  # its maker lives
        if killed:
            maker.kill()
            maker.wait()
            sweep()
            assert groups(maker.pid) == {name}  # a process is in it
        _, err = maker.communicate(timeout=60)  # until maker and child have closed their ends
        assert not err
    deadline = time.monotonic() + 10
    while groups(maker.pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not groups(maker.pid)


def test_the_group_of_a_killed_maker_is_swept(groups: Callable[[int], set[str]]) -> None:
    made = "print(*(path.name for path in group.homes if path.exists()), flush=True)\nsys.stdin.read()"
    script = BASE + f"group = make(Limits(cpu=0.5), 'left')\n{made}"
    with python(script) as maker:
        assert maker.stdout is not None
        assert maker.stdout.readline() == f"splitbench-{maker.pid}-left\n"
        maker.kill()
        maker.communicate()
    check(Limits(cpu=0.5, memory=64 * MB))
    assert not groups(maker.pid)


def test_processes_that_are_killed_with_their_children_hold_no_group(groups: Callable[[int], set[str]]) -> None:
    """When the group is removed, the child of this process has been reaped, but not the child's own children."""
    group = make(Limits(cpu=0.5, memory=256 * MB), "family")
    fork = "for _ in range(5): os.fork()\nprint(flush=True)\n"
    script = f"import os, sys\nos.setsid()\nsys.stdin.read(1)\n{fork}sys.stdin.read()"
    with python(script) as process:
        group.join(process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("x")
        process.stdin.flush()
        for _ in range(32):
            process.stdout.readline()
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        group.remove()
        assert not groups(os.getpid())


def test_a_group_of_the_same_name_that_an_earlier_process_left(groups: Callable[[int], set[str]]) -> None:
    make(Limits(cpu=0.5), "again")
    make(Limits(cpu=0.25), "again").remove()


def test_a_user_who_may_not_write_is_told_what_to_do() -> None:
    drop = f"os.getuid() or os.setuid({NOBODY})\n"
    with python(BASE + drop + "check(Limits(cpu=0.25))") as process:
        _, err = process.communicate(timeout=60)
    if os.getuid() and not err:
        pytest.skip("this user may make control groups")
    last = err.splitlines()[-1]
    assert last.startswith("transports.errors.UsageError: cpu = 0.25: no control group can do so: ")
    assert "systemd-run" in last
    assert last.endswith("or limit `threads` or `cores` instead")


@pytest.mark.parametrize("numbers", [(-1.0, 0), (float("nan"), 0), (float("inf"), 0), (0.001, 0), (0.5, -1)])
def test_numbers_that_are_no_limits(numbers: tuple[float, int]) -> None:
    with pytest.raises(UsageError, match=r"^(cpu|memory) = .*: give "):
        Limits(*numbers)


def test_without_limits_nothing_is_made(tmp_path: Path) -> None:
    check(Limits(), tmp_path)
    group = make(Limits(), "server-0", tmp_path)
    group.join()
    group.leave()
    assert not [*tmp_path.iterdir()]


V2 = "30 23 0:26 {mounted} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
CPU_V1 = "36 25 0:31 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid - cgroup cgroup rw,cpu,cpuacct\n"
MEMORY_V1 = "37 25 0:32 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n"
TOP = {"cgroup.controllers": "cpu io memory pids\n", "cgroup.subtree_control": "cpu memory\n", "cgroup.procs": ""}
NESTED = {**TOP, "cgroup.type": "domain\n"}
Tree = tuple[str, str, Mapping[str, Mapping[str, str]]]


def tree(root: Path, files: Tree) -> None:
    """Write the group of this process, the mounts, and the groups with their files."""
    (own := root / "proc" / "self").mkdir(parents=True)
    (own / "cgroup").write_text(files[0])
    (own / "mountinfo").write_text("23 1 8:1 / / rw,relatime - ext4 /dev/sda rw\n" + files[1])
    for group, texts in files[2].items():
        (folder := root / "sys/fs/cgroup" / group).mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (folder / name).write_text(text)


MAKEABLE: Mapping[str, tuple[Tree, Mapping[str, str]]] = {
    "version 1: a group for each controller, in that of the maker": (
        (
            "4:memory:/a\n3:cpu,cpuacct:/b\n0::/\n",
            CPU_V1 + MEMORY_V1,
            {"cpu,cpuacct/b": {}, "memory/a": {}},
        ),
        {
            "cpu,cpuacct/b/NAME/cpu.cfs_period_us": "4000",
            "cpu,cpuacct/b/NAME/cpu.cfs_quota_us": "6000",
            "memory/a/NAME/memory.limit_in_bytes": "1048576",
        },
    ),
    "version 2, in the root of the system": (
        ("0::/\n", V2.format(mounted="/"), {"": TOP}),
        {"NAME/cpu.max": "6000 4000", "NAME/memory.max": "1048576"},
    ),
    "version 2, beside the maker's group in a container": (
        ("0::/main\n", V2.format(mounted="/"), {"": NESTED, "main": NESTED}),
        {"NAME/cpu.max": "6000 4000", "NAME/memory.max": "1048576"},
    ),
    "version 2, with a controller that can be enabled": (
        ("0::/\n", V2.format(mounted="/"), {"": {**TOP, "cgroup.subtree_control": "cpu\n"}}),
        {"NAME/cpu.max": "6000 4000", "NAME/memory.max": "1048576", "cgroup.subtree_control": "+memory"},
    ),
}


@pytest.mark.parametrize("case", MAKEABLE)
def test_the_files_that_are_written(case: str, tmp_path: Path) -> None:
    files, expected = MAKEABLE[case]
    tree(tmp_path, files)
    group = make(Limits(cpu=1.5, memory=MB), "server-0", tmp_path)
    base, name = tmp_path / "sys/fs/cgroup", f"splitbench-{os.getpid()}-server-0"
    paths = {path: base / path.replace("NAME", name) for path in expected}
    assert {path: file.read_text() for path, file in paths.items()} == expected
    assert {*group.homes} == {file.parent for path, file in paths.items() if "NAME" in path}


def test_a_group_that_systemd_has_delegated(tmp_path: Path) -> None:
    groups = {"": TOP, "user.slice": NESTED, "user.slice/a.service": NESTED, "user.slice/a.service/main": NESTED}
    tree(tmp_path, ("0::/user.slice/a.service/main\n", V2.format(mounted="/"), groups))
    unit = tmp_path / "sys/fs/cgroup/user.slice/a.service"
    try:
        os.setxattr(unit, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {error}")
    group = make(Limits(cpu=0.25), "server-0", tmp_path)
    assert dict(group.homes) == {unit / f"splitbench-{os.getpid()}-server-0": unit / "main"}


REFUSED: Mapping[str, tuple[Tree, str]] = {
    "no control groups": (("", "", {}), "no control groups for cpu are mounted"),
    "version 2 without the controller": (
        (
            "0::/\n",
            V2.format(mounted="/"),
            {"": {**TOP, "cgroup.controllers": "memory\n", "cgroup.subtree_control": ""}},
        ),
        "has no controller cpu; the groups above have not enabled it",
    ),
    "a session of systemd": (
        (
            "0::/user.slice/a.scope\n",
            V2.format(mounted="/"),
            {"": TOP, "user.slice": NESTED, "user.slice/a.scope": NESTED},
        ),
        "user.slice belongs to systemd, which has not delegated it",
    ),
    "a container whose processes are in its top group": (
        ("0::/docker/ab\n", V2.format(mounted="/docker/ab"), {"": NESTED}),
        "is the top group of this container and processes are in it; move them to one below",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_imposed_is_refused_before_anything_starts(case: str, tmp_path: Path) -> None:
    files, reason = REFUSED[case]
    tree(tmp_path, files)
    before = {*tmp_path.rglob("*")}
    with pytest.raises(UsageError) as caught:
        check(Limits(cpu=0.25), tmp_path)
    text = str(caught.value)
    assert text.startswith("cpu = 0.25: no control group can do so: ")
    assert f"{reason}; run as root, or below `systemd-run " in text
    assert "\n" not in text
    assert {*tmp_path.rglob("*")} == before
