"""The launcher for this machine: a fork server, and a thread that reads its events."""

from __future__ import annotations

import contextlib
import fcntl
import os
import subprocess
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM, Signals
from typing import Self

import msgspec

from cluster import scratch
from cluster.errors import ClusterDown
from cluster.launchers import fork_server
from cluster.launchers.base import START, Launcher, Order
from cluster.launchers.fork_server import CHUNK, GRACE, MARK, Ended, Event, Ready, Request, Signal, Start, Store, Tail
from transports.address import Address
from transports.process import command

PIPE = 2**20
"""Bytes that the pipe for orders holds."""
ANSWER = 2.0
"""Seconds within which the fork server has to answer with the end of a log."""


@dataclass
class _Process:
    title: str
    addresses: Mapping[str, Address] | None = None
    """None until the process is ready."""
    status: int | None = None
    """None until the process has ended; negative: the signal that ended it."""
    tail: str | None = None
    """The end of its log; None while an answer of the fork server is awaited."""
    expected: bool = False
    """Whether its end is no failure, since it was ordered."""


class LocalLauncher(Launcher):
    """Forks processes that have TensorFlow loaded. Entering returns before TensorFlow is loaded."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._writing = threading.Lock()
        self._processes: dict[str, _Process] = {}
        self._stored: set[str] = set()
        self._begun = False
        """Whether the fork server has loaded TensorFlow, and reads orders."""
        self._broken = False
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        folder = self._held.enter_context(scratch.folder())
        self._log = self._held.enter_context(tempfile.TemporaryFile("w+"))
        self._fork_server = subprocess.Popen(
            command(fork_server.__name__, str(folder)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches only this program, which then ends the others
            env={"TF_CPP_MIN_LOG_LEVEL": "2", **os.environ},
        )
        assert self._fork_server.stdin is not None
        self._orders = self._fork_server.stdin
        with contextlib.suppress(AttributeError, OSError):  # Linux: files are copied in fewer writes
            fcntl.fcntl(self._orders.fileno(), fcntl.F_SETPIPE_SZ, PIPE)
        self._reader = threading.Thread(target=self._read, name="launcher", daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._orders.close()
        if not self._processes:  # while the fork server loads TensorFlow, it does not read its input
            self._fork_server.terminate()
        try:
            self._fork_server.wait(3 * GRACE)
        except subprocess.TimeoutExpired:
            self._fork_server.kill()
            self._fork_server.wait()
        self._reader.join()
        self._held.close()

    @property
    def pid(self) -> int:
        """The process id of the fork server, the parent of all processes."""
        return self._fork_server.pid

    def start(self, order: Order) -> None:
        if order.name in self.running():
            raise ValueError(f"a process {order.name!r} runs already")
        for sha256 in dict.fromkeys(order.config.files.values()):
            if sha256 not in self._stored:
                self._store(sha256, order)
        with self._news:
            self._processes[order.name] = _Process(order.title or order.name)
        self._send(Start(order.name, order.config))

    def addresses(self, name: str) -> Mapping[str, Address]:
        process = self._processes[name]
        with self._news:
            self._news.wait_for(lambda: process.addresses is not None or self._failure(), START)
            if process.addresses is not None:
                return process.addresses
            if failure := self._failure():
                raise ClusterDown(failure)
        raise ClusterDown(f"{process.title} is not ready after {START:.0f} s{_last_line(self.tail(name))}")

    def signal(self, name: str, number: Signals) -> None:
        self._send(Signal(name, number))
        self.tail(name)  # orders are carried out in sequence: after this answer, the signal has been sent

    def stop(self, names: Sequence[str]) -> None:
        self._end(names, SIGTERM)
        self.kill(names)

    def kill(self, names: Sequence[str]) -> None:
        self._end(names, SIGKILL)

    def running(self) -> frozenset[str]:
        with self._news:
            if self._broken:  # the processes end with the fork server
                return frozenset()
            return frozenset(name for name, process in self._processes.items() if process.status is None)

    def tail(self, name: str) -> str:
        process = self._processes[name]
        if process.status is None:
            process.tail = None
            self._send(Tail(name))
            with self._news:
                self._news.wait_for(lambda: process.tail is not None or self._broken, ANSWER)
        return process.tail or ""

    def check(self, patience: float = 0.0) -> None:
        with self._news:
            if failure := self._news.wait_for(self._failure, patience):
                raise ClusterDown(failure)

    def _store(self, sha256: str, order: Order) -> None:
        with order.contents[sha256].open("rb") as file:
            offset = 0
            while (piece := file.read(CHUNK)) or not offset:  # an empty file is one piece
                self._send(Store(sha256, offset, piece))
                offset += len(piece) or 1
        self._stored.add(sha256)

    def _send(self, request: Request) -> None:
        line = memoryview(msgspec.json.encode(request) + b"\n")
        try:
            with self._writing:
                while line:
                    line = line[self._orders.write(line) or 0 :]
        except (OSError, ValueError):
            self._reader.join()
            self.check()

    def _end(self, names: Sequence[str], number: Signals) -> None:
        """Signal the running processes among `names`, and wait up to `GRACE` seconds until they have ended."""
        with self._news:
            going = [name for name in names if name in self.running()]
            for name in names:
                if name in self._processes:
                    self._processes[name].expected = True
        with contextlib.suppress(ClusterDown):  # if the fork server has ended, no process runs
            for name in going:
                self._send(Signal(name, number))
        with self._news:
            self._news.wait_for(lambda: self._begun or self._broken, START)  # only then does it read orders
            self._news.wait_for(lambda: not self.running().intersection(going), GRACE)

    def _failure(self) -> str:
        """The error text for the first process that has ended unexpectedly, or the fork server; empty if none has."""
        for process in self._processes.values():
            if process.status is not None and not process.expected:
                return f"{process.title} {_ending(process.status)}{_last_line(process.tail or '')}"
        if self._broken:
            self._log.seek(0)
            return f"launcher {_ending(self._fork_server.wait())}{_last_line(self._log.read())}"
        return ""

    def _read(self) -> None:
        assert self._fork_server.stdout is not None
        with self._fork_server.stdout as events:
            rest = b""
            while data := events.read(2**16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if self._begun:
                        self._hear(msgspec.json.decode(line, type=Event))
                    elif line == MARK:
                        with self._news:
                            self._begun = True
                            self._news.notify_all()
        with self._news:
            self._broken = True
            self._news.notify_all()

    def _hear(self, event: Event) -> None:
        with self._news:
            process = self._processes[event.name]
            if isinstance(event, Ready):
                process.addresses = {name: Address.parse(text) for name, text in event.addresses.items()}
            else:
                process.tail = event.tail
                process.status = event.status if isinstance(event, Ended) else process.status
            self._news.notify_all()


def _ending(status: int) -> str:
    return f"was ended by {Signals(-status).name}" if status < 0 else f"ended with status {status}"


def _last_line(log: str) -> str:
    """The last line of a log, as the end of an error text; empty if there is none."""
    lines = log.strip().splitlines()
    return f": {lines[-1]}" if lines else ""
