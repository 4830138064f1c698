"""A share of a core and a limit of memory for one process with its threads and children, by a Linux control group.

Rules (kernel: admin-guide/cgroup-v1, scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst):
  - A group is called `splitbench-<process id of its maker>-<name>`. In version 1 each controller has a group of its
    own, below the group of the maker.
  - In version 2 a group with processes has no groups below it that limit anything, except the root of the system. So
    the group is made beside the maker's own, below the one above: only if that one is the top of what is mounted (a
    container), or if systemd has delegated it. In other groups systemd may switch off what it did not switch on.
  - The kernel removes no group with a living process. The maker removes it once the process has been reaped. If the
    maker was killed, the process does so when it ends, and `sweep` in a later run if that was killed too.
  - Memory counts in the group of the process that touched it first: what a forked process shares with its parent does
    not count. Memory above the limit is not swapped; the kernel kills a process of the group (SIGKILL).
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from partitioning.control_groups import control_group
from partitioning.control_groups import groups as groups_above
from transports.errors import UsageError

NAME = re.compile(r"splitbench-(\d+)-.+")
SYSTEM = Path("/")
"""The folder that holds `proc` and the mounted hierarchies."""
SHORTEST, LONGEST = 4_000, 100_000
"""Microseconds after which a process has its share anew, at least and at most. In a short period it runs as evenly as a
slow processor does; in the kernel's own of 100 ms a quarter of a core would do 25 ms of work at full speed and then
stop for 75. Below a tick of the kernel (4 ms), a process gets less than its share."""
QUOTA = 1_000
"""The least microseconds of a period that the kernel grants."""
LEAST = QUOTA / LONGEST
"""The smallest share of a core."""
KILLS = ("memory.oom_control", "memory.events")
"""The files, of version 1 and 2, in which the kernel counts the processes that it killed for their memory."""
PATIENCE = 0.5
"""Seconds in which killed processes have to leave a group that is removed."""
IF_PRESENT = {"memory.memsw.limit_in_bytes", "memory.swap.max"}
"""Files that only a kernel which counts swap has."""
ADVICE = "run as root, or below `systemd-run [--user] -dt -p Delegate=yes -p DelegateSubgroup=main` (systemd 254), or "
INSTEAD = {"cpu": "limit `threads` or `cores` instead", "memory": "leave the limit out"}
REASONS = {errno.EBUSY: "processes are in that group", errno.EINVAL: "the groups above allow less"}
"""What the kernel means by an error, where its own words say too little."""


@dataclass(frozen=True)
class Limits:
    """What a process may take. Raises `UsageError` for numbers that are no limits."""

    cpu: float = 0.0
    """Cores: 0.25 is 1 ms in each 4 ms, 1.5 is one and a half cores; 0 is no limit."""
    memory: int = 0
    """Bytes; 0 is no limit. The kernel rounds down to pages."""

    def __post_init__(self) -> None:
        if self.cpu != 0 and not LEAST <= self.cpu < math.inf:
            raise UsageError(f"cpu = {self.cpu}: give at least {LEAST} of a core, or 0 for no limit")
        if self.memory < 0:
            raise UsageError(f"memory = {self.memory}: give a number of bytes, or 0 for no limit")


@dataclass(frozen=True)
class Group:
    """The control group of one process. It has no folders if nothing is limited; its methods then do nothing."""

    homes: Mapping[Path, Path] = field(default_factory=dict)
    """Each folder of the group, and the folder of the group in which the maker is."""

    def join(self, pid: int = 0) -> None:
        """Put a process (0: this one) with all its threads into the group; its children to come are born there.

        Raises `UsageError`.
        """
        for folder in self.homes:
            _write(folder / "cgroup.procs", str(pid))
        control_group.cache_clear()  # a forked process has inherited what its parent read

    def exceeded(self) -> bool:
        """Whether the kernel has killed a process of the group, since it needed more memory than the limit."""
        kills = (_kills(folder / name) for folder in self.homes for name in KILLS)
        return any(kills)

    def leave(self) -> None:
        """Put this process back into the maker's group, and remove the group."""
        for home in {*self.homes.values()}:
            with contextlib.suppress(UsageError):
                _write(home / "cgroup.procs", "0")
        control_group.cache_clear()
        self.remove()

    def remove(self) -> None:
        """Remove the group. If a process is still in it after `PATIENCE` seconds, it stays for `sweep`."""
        deadline = time.monotonic() + PATIENCE
        for folder in self.homes:
            while not _removed(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


def check(limits: Limits, root: Path = SYSTEM) -> None:
    """Make a group with these limits beside those of this process, and remove it. Raises `UsageError` if that fails.

    Groups that killed processes left are removed, too.
    """
    sweep(root)
    make(limits, "check", root).remove()


def make(limits: Limits, name: str, root: Path = SYSTEM) -> Group:
    """Make a group of that name with these limits and no process in it. `name` must be valid as that of a file.

    Raises `UsageError` if it cannot be made here; nothing is left then.
    """
    homes: dict[Path, Path] = {}
    with contextlib.ExitStack() as undo:
        undo.callback(lambda: Group(homes).remove())
        for controller, value in (("cpu", limits.cpu), ("memory", limits.memory)):
            if value:
                try:
                    _impose(limits, controller, f"splitbench-{os.getpid()}-{name}", homes, root)
                except (UsageError, OSError) as error:
                    reason = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else error
                    told = f"{controller} = {value}: no control group can do so: {reason}"
                    raise UsageError(f"{told}; {ADVICE}{INSTEAD[controller]}") from error
        undo.pop_all()
    return Group(homes)


def sweep(root: Path = SYSTEM) -> None:
    """Remove the empty groups beside those of this process whose maker has ended."""
    for controller in INSTEAD:
        with contextlib.suppress(UsageError, OSError):
            for folder in _place(root, controller).place.iterdir():
                if (made := NAME.fullmatch(folder.name)) and not _lives(int(made[1])):
                    _removed(folder)


@dataclass(frozen=True)
class _Place:
    """The group `place` in which groups can be made, and the own group of this process."""

    place: Path
    home: Path
    version: int


def _place(root: Path, controller: str) -> _Place:
    """Where the group for a controller belongs. Raises `UsageError` with the reason if there is no such place.

    If a container does not show the own group of this process, the nearest one above that it shows takes its place.
    """
    found = [group for group in groups_above(root, controller) if group.is_dir()]
    for group in found:  # version 1 first: version 2 has only the controllers that version 1 has not
        if not _is_version_2(group):
            return _Place(group, group, 1)
    if not found:
        raise UsageError(f"no control groups for {controller} are mounted")
    home, above = found[0], found[0].parent
    if not (home / "cgroup.type").exists():  # the root of the system
        return _Place(home, home, 2)
    if above not in found:
        raise UsageError(f"{home} is the top group of this container and processes are in it; move them to one below")
    if above.parent in found and not _delegated(above):
        raise UsageError(f"{above} belongs to systemd, which has not delegated it")
    return _Place(above, home, 2)


def _is_version_2(group: Path) -> bool:
    return (group / "cgroup.controllers").exists()


def _delegated(group: Path) -> bool:
    """Whether systemd leaves the group to its users (systemd: CGROUP_DELEGATION)."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _impose(limits: Limits, controller: str, name: str, homes: dict[Path, Path], root: Path) -> None:
    """Make the folder for a controller unless `homes` has it, add it there, and write the limit.

    Raises `UsageError` or `OSError` with the reason.
    """
    place = _place(root, controller)
    if place.version == 2:
        _enable(place.place, controller)
    folder = place.place / name
    if folder not in homes:
        _removed(folder)  # that of an earlier process with the same id
        folder.mkdir()
        homes[folder] = place.home
    for file, text in _settings(limits, controller, place.version):
        if file not in IF_PRESENT or (folder / file).exists():
            _write(folder / file, text)


def period_of(cpu: float) -> int:
    """Microseconds after which a process with so many cores has its share anew."""
    return max(SHORTEST, min(LONGEST, round(QUOTA / cpu))) if cpu else LONGEST


def _settings(limits: Limits, controller: str, version: int) -> Iterator[tuple[str, str]]:
    """The files of a group, in the order in which they are written, and their text."""
    period = period_of(limits.cpu)
    quota, memory = str(round(limits.cpu * period)), str(limits.memory)
    yield from {
        ("cpu", 1): [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", quota)],
        ("cpu", 2): [("cpu.max", f"{quota} {period}")],
        ("memory", 1): [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
        ("memory", 2): [("memory.max", memory), ("memory.swap.max", "0")],
    }[controller, version]


def _enable(place: Path, controller: str) -> None:
    """Let the groups below `place` limit by the controller. It stays so, since other runs may rely on it."""
    enabled = place / "cgroup.subtree_control"
    if controller in enabled.read_text().split():
        return
    if controller not in (place / "cgroup.controllers").read_text().split():
        raise UsageError(f"{place} has no controller {controller}; the groups above have not enabled it")
    _write(enabled, f"+{controller}")


def _write(path: Path, text: str) -> None:
    """Write a file of the kernel. Raises `UsageError` with the reason if the kernel does not take it."""
    try:
        path.write_text(text)
    except OSError as error:
        reason = REASONS.get(error.errno or 0, error.strerror)
        raise UsageError(f"{path} does not accept {text!r}: {reason}") from error


def _removed(folder: Path) -> bool:
    """Remove the folder. Returns False if it exists and processes are in it."""
    try:
        folder.rmdir()
    except OSError as error:
        return error.errno != errno.EBUSY
    return True


def _kills(path: Path) -> int:
    """The number of killed processes in a file of a group that tells it; 0 without the file."""
    try:
        counts = dict(line.split(maxsplit=1) for line in path.read_text().splitlines())
    except OSError:
        return 0
    return int(counts.get("oom_kill", 0))


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True
