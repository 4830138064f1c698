"""Helpers of the fault tests: bounds on time, and processes that are stopped for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

import transports
from tests.lateness import in_time
from transports.errors import WireError

DEADLINE = 1.0
"""Deadline in seconds of a request that meets a fault."""
ALLOWANCE = 0.5
"""A request must have failed this many seconds, and a tenth of its deadline, after the deadline."""

PATIENCE = 20.0
"""Deadline in seconds of a request that must succeed."""

REMOTE = tuple(name for name in transports.NAMES if transports.kind(name).addressing != "in-process")
"""The transports that cross from one process to another."""
WIRES: Mapping[str, tuple[str, Mapping[str, str]]] = {name: (name, {}) for name in REMOTE} | {
    f"{name}-stream": (name, {f"{name}.send": "stream"})
    for name in REMOTE
    if hasattr(transports.kind(name).Options, "send")
}
"""Name of a case -> a transport and its options."""
STREAMED = [wire for wire, (name, _) in WIRES.items() if not transports.kind(name).in_memory]
"""The cases that send tensors of any size over the socket alone."""


def at_once(check: Callable[[str], object], wires: Iterable[str] = WIRES) -> None:
    """Run `check` for all `wires` at the same time, since the checks mostly wait. An error names its wire."""

    def checked(wire: str) -> None:
        try:
            check(wire)
        except BaseException as error:
            error.add_note(f"over {wire}")
            raise

    wires = list(wires)
    with ThreadPoolExecutor(len(wires)) as threads:
        for done in [threads.submit(checked, wire) for wire in wires]:
            done.result()


@contextmanager
def failing(*errors: type[WireError], within: float = DEADLINE) -> Iterator[pytest.ExceptionInfo[WireError]]:
    """The block must raise one of `errors`, at the latest shortly after `within` seconds."""
    with in_time(1.1 * within + ALLOWANCE), pytest.raises(errors) as caught:
        yield caught


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """Stop the process `pid` during the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while not all(map(_is_stopped, Path(f"/proc/{pid}/task").iterdir())):  # threads stop a little later
            pass
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def _is_stopped(thread: Path) -> bool:
    return (thread / "stat").read_text().rpartition(")")[2].split()[0] == "T"
