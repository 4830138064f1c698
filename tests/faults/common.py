"""What the tests of faults share: a deadline that is watched, and processes that are stopped for a while."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import psutil
import pytest

import transports
from tests.lateness import in_time
from transports.errors import WireError

DEADLINE = 1.0
"""Seconds that a request may take which a fault befalls."""
ALLOWANCE = 0.5
"""Seconds more, beside a tenth, until it has to have failed."""

PATIENCE = 20.0
"""Seconds for what is to succeed."""

REMOTE = tuple(name for name in transports.NAMES if not transports.load(name).local)
"""The transports between processes."""
WIRES: Mapping[str, tuple[str, Mapping[str, str]]] = {name: (name, {}) for name in REMOTE} | {
    "grpc-stream": ("grpc", {"grpc.send": "stream"})
}
"""Name of a case -> one of them, and its options."""


def at_once(check: Callable[[str], object], wires: Iterable[str] = WIRES) -> None:
    """Do `check` for all of `wires` at the same time, since most of it is waiting; the first failure names its wire."""

    def checked(wire: str) -> None:
        try:
            check(wire)
        except BaseException as error:
            error.add_note(f"over {wire}")
            raise

    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(checked, wire) for wire in wires]:
            done.result()


@contextmanager
def failing(*errors: type[WireError], within: float = DEADLINE) -> Iterator[pytest.ExceptionInfo[WireError]]:
    """One of `errors` is raised inside, not much later than after `within` seconds."""
    with in_time(1.1 * within + ALLOWANCE), pytest.raises(errors) as caught:
        yield caught


@contextmanager
def frozen(pid: int) -> Iterator[None]:
    """The process `pid` is stopped inside, and goes on after."""
    os.kill(pid, signal.SIGSTOP)
    try:
        while psutil.Process(pid).status() != psutil.STATUS_STOPPED:  # a signal takes its time
            pass
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
