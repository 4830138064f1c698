"""A launcher over pipes: a fork server on each host, and one table of the processes on all hosts."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from signal import SIGKILL, SIGTERM, Signals
from typing import Self

from cluster.errors import ClusterDown
from cluster.launchers.base import START, Clock, Launcher, Order
from cluster.launchers.fork_server import GRACE
from cluster.launchers.pipe import Pipe, Way, ending, last_line
from cluster.launchers.protocol import (
    CHUNK,
    Answer,
    Ask,
    Ended,
    Hello,
    Lacking,
    Ready,
    Secret,
    Signal,
    Start,
    Store,
    Tail,
    Tick,
    Tock,
)
from transports.address import Address

HELLO = 20.0
"""Seconds within which a host has to introduce itself."""
ANSWER = 5.0
"""Seconds within which a fork server has to answer a question."""
ASKED = 32
"""Most contents in one question, so that the answer can be written in one piece (`fork_server.ATOMIC`)."""
LARGE = 10**7
"""Size of a process's files in bytes from which on `notify` announces the sending, which takes long on a slow link."""
TICKS = 8
"""Number of readings of a clock; the reading with the shortest round trip counts."""


@dataclass
class _Process:
    title: str
    pipe: Pipe
    addresses: Mapping[str, Address] | None = None
    """None until the process is ready."""
    status: int | None = None
    """None until the process has ended; negative: the signal that ended it."""
    tail: str | None = None
    """The end of its log; None until the fork server has sent it."""
    expected: bool = False
    """Whether the launcher has ordered its end, so that the end is no failure."""


class PipedLauncher(Launcher):
    """Starts processes on the hosts to which `ways` lead (host -> way). Entering returns before TensorFlow is loaded.

    With one way, hosts of every name are the same machine.
    """

    check_first: Callable[[], None] = staticmethod(lambda: None)
    """Called before any host loads TensorFlow. An error that it raises ends the launcher. It may start processes that
    need no TensorFlow."""

    def __init__(self, ways: Mapping[str, Way], notify: Callable[[str], None] = lambda text: None) -> None:
        """`notify` is called with a text for each step that takes long."""
        self._notify = notify
        self._news = threading.Condition()
        self._processes: dict[str, _Process] = {}
        self._pipes: dict[str, Pipe] = {}
        for host, way in ways.items():
            self._add(host, way)
        self._answers: dict[Pipe, Lacking | Tock | None] = {}
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._until = time.monotonic() + HELLO
            for pipe in self._pipes.values():
                self._held.enter_context(pipe)
            self.check_first()
            for pipe in self._pipes.values():
                pipe.begin()
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def _add(self, host: str, way: Way) -> None:
        self._pipes[host] = Pipe(way, self._news, self._hear)

    def _close(self) -> None:
        for pipe in self._pipes.values():  # tell all to end before waiting for any, since each takes a while
            pipe.finish()
        self._held.close()

    @property
    def pids(self) -> Mapping[str, int]:
        """Host -> the process id of the program that leads to its fork server."""
        return {host: pipe.pid for host, pipe in self._pipes.items()}

    @property
    def hosts(self) -> Mapping[str, Hello]:
        return {host: self._introduced(pipe) for host, pipe in self._pipes.items()}

    def clock(self, host: str) -> Clock:
        pipe = self._pipe(host)
        found = []
        for _ in range(TICKS):
            before = time.time()
            answer = self._ask(pipe, Tick())
            after = time.time()
            assert isinstance(answer, Tock)
            found.append(Clock(answer.time - (before + after) / 2, (after - before) / 2, answer.load))
        return min(found, key=lambda clock: clock.uncertainty)

    def secret(self, host: str, name: str, data: bytes) -> str:
        pipe = self._pipe(host)
        pipe.send(Secret(name, data))
        return f"{self._introduced(pipe).folder}/secrets/{name}"

    def start(self, order: Order) -> None:
        if order.name in self.running():
            raise ValueError(f"a process {order.name!r} runs already")
        pipe = self._pipe(order.host)
        self._store(pipe, order)
        with self._news:
            self._processes[order.name] = _Process(order.title or order.name, pipe)
        pipe.send(Start(order.name, order.config))

    def addresses(self, name: str) -> Mapping[str, Address]:
        process = self._processes[name]
        with self._news:
            self._news.wait_for(lambda: process.addresses is not None or self._failure(), START)
            if process.addresses is not None:
                return process.addresses
            if failure := self._failure():
                raise ClusterDown(failure)
        raise ClusterDown(f"{process.title} is not ready after {START:.0f} s{last_line(self.tail(name))}")

    def signal(self, name: str, number: Signals) -> None:
        self._processes[name].pipe.send(Signal(name, number))
        self.tail(name)  # orders run in sequence: once this order is answered, the signal has been sent

    def stop(self, names: Sequence[str]) -> None:
        self._end(names, SIGTERM)
        self.kill(names)

    def kill(self, names: Sequence[str]) -> None:
        self._end(names, SIGKILL)

    def running(self) -> frozenset[str]:
        with self._news:  # processes end with their fork server
            return frozenset(
                name for name, process in self._processes.items() if process.status is None and not process.pipe.broken
            )

    def tail(self, name: str) -> str:
        process = self._processes[name]
        if name in self.running():
            process.tail = None
            process.pipe.send(Tail(name))
            with self._news:
                self._news.wait_for(lambda: process.tail is not None or process.pipe.broken, ANSWER)
        return process.tail or ""

    def check(self, patience: float = 0.0) -> None:
        with self._news:
            if failure := self._news.wait_for(self._failure, patience):
                raise ClusterDown(failure)

    def _pipe(self, host: str) -> Pipe:
        return self._pipes[host] if host in self._pipes else next(iter(self._pipes.values()))

    def _introduced(self, pipe: Pipe) -> Hello:
        """The host's description of itself. Raises `ClusterDown` if none arrives in time."""
        with self._news:
            self._news.wait_for(lambda: pipe.hello is not None or pipe.broken, self._until - time.monotonic())
            if pipe.hello is not None:
                return pipe.hello
            broken = pipe.broken
        raise ClusterDown(pipe.failure() if broken else f"{pipe.way.title} does not answer within {HELLO:.0f} s")

    def _store(self, pipe: Pipe, order: Order) -> None:
        """Send the contents that the order names and the host lacks."""
        wanted = [sha256 for sha256 in dict.fromkeys(order.config.files.values()) if sha256 not in pipe.stored]
        lacking: list[str] = []
        for place in range(0, len(wanted), ASKED):
            answer = self._ask(pipe, Ask(wanted[place : place + ASKED]))
            assert isinstance(answer, Lacking)
            lacking += answer.sha256
        size = sum(order.contents[sha256].stat().st_size for sha256 in lacking)
        if size >= LARGE:
            self._notify(f"sending {size / 1e6:.0f} MB for {order.title or order.name}")
        for sha256 in lacking:
            self._send_file(pipe, sha256, order)
        pipe.stored.update(wanted)

    def _send_file(self, pipe: Pipe, sha256: str, order: Order) -> None:
        with order.contents[sha256].open("rb") as file:
            offset, piece = 0, file.read(CHUNK)
            while True:
                following = file.read(CHUNK)
                pipe.send(Store(sha256, offset, piece, last=not following))
                if not following:
                    return
                offset, piece = offset + len(piece), following

    def _ask(self, pipe: Pipe, question: Ask | Tick) -> Lacking | Tock:
        """The answer to a question. Raises `ClusterDown`."""
        with self._news:
            self._answers[pipe] = None
        pipe.send(question)
        with self._news:  # the fork server answers no question until TensorFlow is loaded
            self._news.wait_for(lambda: not pipe.loading or pipe.broken, START)
            self._news.wait_for(lambda: self._answers[pipe] or pipe.broken, START)
            answer = self._answers[pipe]
        if answer is None:
            raise ClusterDown(pipe.failure() if pipe.broken else f"{pipe.way.title} does not answer")
        return answer

    def _end(self, names: Sequence[str], number: Signals) -> None:
        """Signal the running processes among `names`, and wait up to `GRACE` seconds until they have ended."""
        with self._news:
            going = [name for name in names if name in self.running()]
            for name in names:
                if name in self._processes:
                    self._processes[name].expected = True
        pipes = {self._processes[name].pipe for name in going}
        for name in going:
            with contextlib.suppress(ClusterDown):  # if the fork server has ended, its processes have ended too
                self._processes[name].pipe.send(Signal(name, number))
        with self._news:  # fork servers read orders only once TensorFlow is loaded
            self._news.wait_for(lambda: all(not pipe.loading or pipe.broken for pipe in pipes), START)
            self._news.wait_for(lambda: not self.running().intersection(going), GRACE)

    def _failure(self) -> str:
        """The error text for the first process that has ended unexpectedly, or a fork server; empty if none has."""
        for process in self._processes.values():
            if process.status is not None and not process.expected:
                return f"{process.title} {ending(process.status)}{last_line(process.tail or '')}"
        return next((pipe.failure() for pipe in self._pipes.values() if pipe.broken), "")

    def _hear(self, pipe: Pipe, event: Answer) -> None:
        if isinstance(event, Lacking | Tock):
            self._answers[pipe] = event
            return
        process = self._processes[event.name]
        if isinstance(event, Ready):
            process.addresses = {name: Address.parse(text) for name, text in event.addresses.items()}
        else:
            process.tail = event.tail
            process.status = event.status if isinstance(event, Ended) else process.status
