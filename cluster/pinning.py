"""Which cores a process may use: what a pipeline of one-core servers is compared with is one core, too."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from transports.errors import UsageError


def usable() -> int:
    """How many cores this process may use at this moment, as far as the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores() -> list[int]:
    """The cores that this process may use. Raises `UsageError` where the system does not tell."""
    if not hasattr(os, "sched_getaffinity"):
        raise UsageError("--pin on: this system cannot pin a process to a core; leave it off")
    return sorted(os.sched_getaffinity(0))


def pin(pid: int, allowed: Collection[int]) -> None:
    """Let every thread of process `pid` run on the cores `allowed` alone; threads that it starts later follow."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(int(task.name), allowed)


@contextlib.contextmanager
def pinned(allowed: Collection[int]) -> Iterator[None]:
    """Pin this process for a while."""
    before = cores()
    pin(os.getpid(), allowed)
    try:
        yield
    finally:
        pin(os.getpid(), before)
