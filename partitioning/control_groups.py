"""The cores and memory that control groups grant this process, as `docker run --cpus 2 --memory 3g` limits them.

Both versions of Linux's control groups are read (kernel: admin-guide/cgroup-v1, admin-guide/cgroup-v2.rst). Every group
on the path from the process's own group to the root of its hierarchy limits it, so the smallest limit counts.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

UNLIMITED = 2**60
"""A limit of at least so many bytes means no limit: version 1 then writes the largest multiple of a page."""


@dataclass(frozen=True)
class Grant:
    """None: no group limits it."""

    cores: float | None = None
    memory: int | None = None
    """Bytes that all processes of the group may take."""
    free: int | None = None
    """Bytes that they may still take, including cached files that the kernel may drop."""


@functools.cache
def control_group() -> Grant:
    """The grant of this process at the first call of this function; later, its `free` may be out of date."""
    return read()


def read(root: Path = Path("/")) -> Grant:
    """The grant of this process now. `root` holds `proc` and the mounted hierarchies."""
    cores = [granted for group in groups(root, "cpu") if (granted := _cores(group)) is not None]
    memory = [found for group in groups(root, "memory") if (found := _memory(group)) is not None]
    least, free = min(memory, default=(None, None))[0], min((free for _, free in memory), default=None)
    return Grant(min(cores, default=None), least, free)


def groups(root: Path, controller: str) -> Iterator[Path]:
    """The folder of each group that limits this process by `controller`, its own first."""
    fields = [line.split(":", 2) for line in _lines(root / "proc/self/cgroup")]
    paths = {name: path for _, names, path in fields for name in names.split(",")}  # version 2: no name
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, kind_of = line.partition(" - ")
        mounted, place = map(_unescaped, mount.split()[3:5])
        kind, _, options = kind_of.split()[:3]
        name = {"cgroup": controller, "cgroup2": ""}.get(kind)
        if name is None or name not in [*options.split(","), ""] or name not in paths:
            continue
        top = root / place.lstrip("/")
        # A container may see its own group as the root of the mount, and the path to that group in the process's path.
        own = top / paths[name].removeprefix(mounted).lstrip("/")
        yield from (group for group in (own, *own.parents) if group.is_relative_to(top))


def _cores(group: Path) -> float | None:
    words = _words(group / "cpu.max") or _words(group / "cpu.cfs_quota_us") + _words(group / "cpu.cfs_period_us")
    quota, period = (*words, "max", "")[:2]
    return None if quota in ("max", "-1") else int(quota) / int(period)


def _memory(group: Path) -> tuple[int, int] | None:
    """(bytes that the group may take, bytes of it that are free)."""
    limit = (_words(group / "memory.max") or _words(group / "memory.limit_in_bytes") or ["max"])[0]
    if limit == "max" or int(limit) >= UNLIMITED:
        return None
    taken = (_words(group / "memory.current") or _words(group / "memory.usage_in_bytes"))[0]
    stat = dict(line.split() for line in _lines(group / "memory.stat"))
    droppable = stat.get("total_inactive_file") or stat.get("inactive_file", "0")
    return int(limit), max(0, int(limit) - int(taken) + int(droppable))


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []


def _unescaped(path: str) -> str:
    """A path of mountinfo, in which blanks are octal numbers."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), path)
