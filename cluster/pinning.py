"""The cores that a process may use: a pipeline of servers with one core each is compared with a model on one core."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from partitioning.control_groups import control_group
from transports.errors import UsageError


def usable() -> int:
    """The number of cores that this process may use now: by its affinity, or fewer if a control group limits it.

    A fraction of a core counts as one core. All cores if the system cannot restrict processes to cores.
    """
    granted = control_group().cores
    return affinity() if granted is None else min(affinity(), math.ceil(granted))


def affinity() -> int:
    """The number of cores on which this process may run now."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> list[int]:
    """The cores that this process may use. Raises `UsageError` if the system cannot restrict them."""
    if not hasattr(os, "sched_getaffinity"):
        raise UsageError("--pin on: this system cannot pin a process to a core; leave it off")
    return sorted(os.sched_getaffinity(0))


def pin(allowed: Collection[int]) -> None:
    """Restrict every thread of this process, and every thread that it starts later, to the cores `allowed`.

    Raises `UsageError` for a core that this process may not use.
    """
    if extra := set(allowed).difference(cores()):
        raise UsageError(f"cores: this process may not use core {min(extra)}; valid: {', '.join(map(str, cores()))}")
    _set(allowed)


@contextlib.contextmanager
def pinned(allowed: Collection[int]) -> Iterator[None]:
    """Pin this process while the block runs."""
    before = cores()
    pin(allowed)
    try:
        yield
    finally:
        _set(before)


def _set(allowed: Collection[int]) -> None:
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
            os.sched_setaffinity(int(task.name), allowed)
