"""Starts the processes of a cluster, watches over them, and ends them whatever happens.

The registry and every node are real processes of their own session: a Ctrl-C in the terminal reaches only the program
that started them, which then ends them in order; and when that program dies, their standard input closes and they go.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cluster.errors import ClusterDown
from cluster.process import parse_ready
from transports.base import Address

__all__ = ["Cluster", "Settings"]

START = 300.0
"""Seconds until every process has to be ready: loading a large model on a slow disk takes minutes."""
GRACE = 10.0
"""Seconds that a process has to end by itself before it is killed."""


@dataclass(frozen=True)
class Settings:
    """What every process of a cluster is started with."""

    transports: tuple[str, ...]
    servers: int
    exports: Path
    workers: int
    threads: int = 0
    options: tuple[str, ...] = ()


class Cluster:
    """A registry and `settings.servers` nodes. A context manager: on entry all are ready, on exit all are gone.

    Raises `ClusterDown` where a process ends before it is ready, with its name and its last words.
    """

    def __init__(self, settings: Settings, notify: Callable[[str], None] = lambda text: None) -> None:
        self._settings = settings
        self._notify = notify
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._lines: queue.Queue[tuple[str, str]] = queue.Queue()
        self._stack = contextlib.ExitStack()
        self.registries: Mapping[str, Address] = {}

    def __enter__(self) -> Cluster:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._logs = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="splitbench-logs-")))
            self._start_registry()
            self._start_nodes()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def pids(self) -> Mapping[str, int]:
        """Process id by name: `registry`, `node-0`, ... (the order of starting, not of portions)."""
        return {name: process.pid for name, process in self._processes.items()}

    def check(self) -> None:
        """Raise `ClusterDown` if a process has ended."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                raise ClusterDown(f"{name} {_ending(process.returncode)}{self._last_words(name)}")

    def close(self) -> None:
        """End every process: ask, wait, kill. Idempotent."""
        processes, self._processes = self._processes, {}
        for process in processes.values():
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]
            process.terminate()
        deadline = time.monotonic() + GRACE
        for process in processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._stack.close()

    def _start_registry(self) -> None:
        servers = self._settings.servers
        # One question at a time of each node and of the client, and room for several clients.
        self._start("registry", ["registry", "--servers", str(servers), "--workers", str(2 * servers + 8)])
        self.registries = self._await_ready(1)["registry"]

    def _start_nodes(self) -> None:
        settings = self._settings
        arguments = [
            *("node", "--exports", str(settings.exports), "--threads", str(settings.threads)),
            *("--workers", str(settings.workers)),
            *("--registry", *(f"{name}={address}" for name, address in self.registries.items())),
        ]
        for number in range(settings.servers):
            self._start(f"node-{number}", arguments)
        self._await_ready(settings.servers)

    def _start(self, name: str, arguments: Sequence[str]) -> None:
        options = [text for option in self._settings.options for text in ("--option", option)]
        command = [sys.executable, "-m", "cluster.process", *arguments, *options, "--until-eof"]
        command += ["--transport", ",".join(self._settings.transports)]
        with (self._logs / name).open("w", encoding="utf-8") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
                env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
            )
        self._processes[name] = process
        threading.Thread(target=self._read, args=(name, process.stdout), daemon=True).start()

    def _read(self, name: str, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._lines.put((name, line))
        self._lines.put((name, ""))

    def _await_ready(self, count: int) -> dict[str, Mapping[str, Address]]:
        """Addresses by process, once `count` more processes are ready."""
        ready: dict[str, Mapping[str, Address]] = {}
        deadline = time.monotonic() + START
        while len(ready) < count:
            try:
                name, line = self._lines.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise ClusterDown(f"after {START:.0f} s only {len(ready)} of {count} processes are ready") from None
            if not line:
                self._processes[name].wait()
                self.check()
            if line.startswith("READY"):
                ready[name] = parse_ready(line)
                self._notify(f"{name} ready")
        return ready

    def _last_words(self, name: str) -> str:
        lines = (self._logs / name).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return f": {lines[-1]}" if lines else ""


def _ending(status: int) -> str:
    return f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
