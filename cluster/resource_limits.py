"""Limits one process with its threads and children to a share of a core and to some memory, by a Linux control group.

Rules (kernel: admin-guide/cgroup-v1, scheduler/sched-bwc.rst, admin-guide/cgroup-v2.rst):
  - A group is called `splitbench-<process id of its maker>-<name>`. In version 1, each controller has a group of its
    own, below the group of the maker.
  - In version 2, a group that contains processes cannot have child groups with limits, except the root of the system.
    So the new group is made beside the maker's group, as a child of its parent group. That is allowed only if the
    parent is the top of the mounted hierarchy (in a container), or if systemd has delegated it: in other groups,
    systemd may switch off controllers that it did not switch on.
  - The kernel does not remove a group with a living process. The maker removes the group once the process has been
    reaped. If the maker was killed, the process removes it when it ends. If the process was killed too, `sweep` does so
    in a later run.
  - Memory counts in the group of the process that touched it first: memory that a forked process shares with its parent
    does not count. Memory above the limit is not swapped; the kernel kills a process of the group (SIGKILL).
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
"""Shortest and longest period in microseconds after which a process gets its share again. With a short period it runs
as evenly as on a slow processor; with the kernel's default of 100 ms, a quarter of a core would mean 25 ms of work at
full speed and then a pause of 75 ms. With a period below a kernel tick (4 ms), a process gets less than its share."""
QUOTA = 1_000
"""The smallest quota, in microseconds of a period, that the kernel accepts."""
LEAST = QUOTA / LONGEST
"""The smallest share of a core."""
KILLS = ("memory.oom_control", "memory.events")
"""The files, in version 1 and 2, in which the kernel counts the processes that it killed for exceeding the memory."""
PATIENCE = 0.5
"""Seconds within which killed processes have to leave a group before it is removed."""
IF_PRESENT = {"memory.memsw.limit_in_bytes", "memory.swap.max"}
"""Files that exist only if the kernel counts swap."""
ADVICE = "run as root, or below `systemd-run [--user] -dt -p Delegate=yes -p DelegateSubgroup=main` (systemd 254), or "
INSTEAD = {"cpu": "limit `threads` or `cores` instead", "memory": "leave the limit out"}
REASONS = {errno.EBUSY: "processes are in that group", errno.EINVAL: "the groups above allow less"}
"""Error number -> its cause, for errors that the kernel's own text does not explain."""


@dataclass(frozen=True)
class Limits:
    """The resources that a process may use. Raises `UsageError` for invalid numbers."""

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
    """Folder of the group -> folder of the maker's group, for each controller's hierarchy."""

    def join(self, pid: int = 0) -> None:
        """Put a process (0: this one) with all its threads into the group; its later children start in the group.

        Raises `UsageError`.
        """
        for folder in self.homes:
            _write(folder / "cgroup.procs", str(pid))
        control_group.cache_clear()  # a forked process has inherited the parent's cached value

    def exceeded(self) -> bool:
        """Whether the kernel has killed a process of the group because the group exceeded its memory limit."""
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
        """Remove the group. If a process is still in it after `PATIENCE` seconds, leave the group to `sweep`."""
        deadline = time.monotonic() + PATIENCE
        for folder in self.homes:
            while not _removed(folder) and time.monotonic() < deadline:
                time.sleep(0.01)


def check(limits: Limits, root: Path = SYSTEM) -> None:
    """Test whether a group with these limits can be made: make one and remove it. Raises `UsageError` if that fails.

    Also removes groups that killed processes left behind.
    """
    sweep(root)
    make(limits, "check", root).remove()


def make(limits: Limits, name: str, root: Path = SYSTEM) -> Group:
    """Make an empty group with these limits. `name` must be a valid file name.

    Raises `UsageError`, and leaves nothing behind, if the group cannot be made here.
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
    """Remove the empty groups, next to the groups of this process, whose makers have ended."""
    for controller in INSTEAD:
        with contextlib.suppress(UsageError, OSError):
            for folder in _place(root, controller).place.iterdir():
                if (made := NAME.fullmatch(folder.name)) and not _lives(int(made[1])):
                    _removed(folder)


@dataclass(frozen=True)
class _Place:
    """The group `place`, in which new groups can be made, and this process's own group."""

    place: Path
    home: Path
    version: int


def _place(root: Path, controller: str) -> _Place:
    """Where to make the group for a controller. Raises `UsageError` with the reason if there is no such place.

    If this process's own group is invisible in its container, the nearest visible group above it takes its place.
    """
    found = [group for group in groups_above(root, controller) if group.is_dir()]
    for group in found:  # version 1 first: version 2 has only the controllers that version 1 does not have
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
    """Whether systemd has delegated the group to its user (systemd: CGROUP_DELEGATION)."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(group, name) == b"1":
                return True
    return False


def _impose(limits: Limits, controller: str, name: str, homes: dict[Path, Path], root: Path) -> None:
    """Make the folder for a controller unless `homes` has it, add it to `homes`, and write the limit.

    Raises `UsageError` or `OSError` with the reason.
    """
    place = _place(root, controller)
    if place.version == 2:
        _enable(place.place, controller)
    folder = place.place / name
    if folder not in homes:
        _removed(folder)  # left by an earlier process with the same id
        folder.mkdir()
        homes[folder] = place.home
    for file, text in _settings(limits, controller, place.version):
        if file not in IF_PRESENT or (folder / file).exists():
            _write(folder / file, text)


def period_of(cpu: float) -> int:
    """Microseconds after which a process with a share of `cpu` cores gets its share again."""
    return max(SHORTEST, min(LONGEST, round(QUOTA / cpu))) if cpu else LONGEST


def _settings(limits: Limits, controller: str, version: int) -> Iterator[tuple[str, str]]:
    """The files of a group and their texts, in the order in which they must be written."""
    period = period_of(limits.cpu)
    quota, memory = str(round(limits.cpu * period)), str(limits.memory)
    yield from {
        ("cpu", 1): [("cpu.cfs_period_us", str(period)), ("cpu.cfs_quota_us", quota)],
        ("cpu", 2): [("cpu.max", f"{quota} {period}")],
        ("memory", 1): [("memory.limit_in_bytes", memory), ("memory.memsw.limit_in_bytes", memory)],
        ("memory", 2): [("memory.max", memory), ("memory.swap.max", "0")],
    }[controller, version]


def _enable(place: Path, controller: str) -> None:
    """Enable the controller for groups below `place`. It is not disabled again, since other runs may rely on it."""
    enabled = place / "cgroup.subtree_control"
    if controller in enabled.read_text().split():
        return
    if controller not in (place / "cgroup.controllers").read_text().split():
        raise UsageError(f"{place} has no controller {controller}; the groups above have not enabled it")
    _write(enabled, f"+{controller}")


def _write(path: Path, text: str) -> None:
    """Write a file of the kernel. Raises `UsageError` with the reason if the kernel refuses the text."""
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
    """The number of killed processes that a group's file (one of `KILLS`) gives; 0 if the file does not exist."""
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
    except PermissionError:  # a process of another user
        return True
    return True
