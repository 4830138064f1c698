"""Experiments as users start them: real processes, observed from outside."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.launchers import LocalLauncher

ROOT = Path(__file__).parent.parent


class Run:
    """`python -m experiments.run` (or another module) as a process, whose standard error is read line by line."""

    def __init__(
        self, *arguments: object, module: str = "experiments.run", within: Sequence[str] = (), **options: Any
    ) -> None:
        """`within`: a command that runs the command after it, such as `nsenter`."""
        command = [*within, sys.executable, "-m", module, *map(str, arguments)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
        )
        self.lines: list[str] = []

    def wait_for(self, text: str) -> None:
        """Read standard error until a line has `text` in it."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return
        pytest.fail(f"{text!r} never came: {''.join(self.lines)}")

    def cluster(self) -> list[psutil.Process]:
        """The launcher and its processes, among them the registry and two nodes."""
        found = below(self.process.pid)
        assert {*found.values()} >= {"registry", "node-0", "node-1"}
        return [*found]

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exc: object) -> None:
        """Kill the process if it still runs."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()

    def finish(self, timeout: float = 600.0) -> tuple[int, str]:
        """Wait for the end: (exit status, the last line of standard error). `out` is then the standard output."""
        self.out, err = self.process.communicate(timeout=timeout)
        self.lines += err.splitlines()
        return self.process.returncode, self.lines[-1].strip() if self.lines else ""


def below(pid: int) -> dict[psutil.Process, str]:
    """The descendants of the process `pid`, with their names. Processes that end meanwhile are left out."""
    found: dict[psutil.Process, str] = {}
    for process in psutil.Process(pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            found[process] = process.name()
    return found


def process_of(launcher: LocalLauncher, name: str) -> psutil.Process:
    """The process `name` that the launcher has started."""
    return next(child for child in psutil.Process(launcher.pid).children() if child.name() == name)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=60)
    assert not alive
