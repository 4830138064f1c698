"""A launcher's connection to a fork server: the standard input and output of a program that leads to it."""

from __future__ import annotations

import contextlib
import fcntl
import re
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from signal import Signals
from typing import Self

import msgspec

from cluster.errors import ClusterDown
from cluster.launchers.protocol import MARK, Alive, Answer, Begin, Begun, Event, Hello, Request

CAPACITY = 2**20
"""Size in bytes of the pipe for orders."""
END = 15.0
"""Seconds within which the fork server and its processes have to end after the end of the orders or of the events."""
LIBRARY = re.compile(r"([IWEF]\d{4} |\d{4}-\d\d-\d\d \d\d:|WARNING: All log messages before)")
"""The beginning of a line of TensorFlow's own log, which may appear between other lines at any time."""
BEATS = 4
"""Number of orders that are sent within the longest silence that a fork server tolerates."""


@dataclass(frozen=True)
class Way:
    """How to reach a fork server."""

    command: Sequence[str]
    """The program to run on this machine."""
    title: str = "launcher"
    """The name of the program in error texts."""
    silence: float = 0.0
    """Seconds without an order after which the fork server assumes that the connection is lost; 0: never."""
    remedy: Callable[[int, str], str] = lambda status, log: ""
    """(exit status, log of the program) -> the end of an error text, which tells what to do."""


class Pipe:
    """A running program that leads to a fork server. A context manager; on exit both have ended.

    `news` is notified after each event. `hear` is called with each event that answers an order, while `news` is held.
    """

    def __init__(self, way: Way, news: threading.Condition, hear: Callable[[Pipe, Answer], None]) -> None:
        self.way = way
        self.hello: Hello | None = None
        """The host's description of itself; None until it has arrived."""
        self.broken = False
        """Whether the connection or the fork server has ended."""
        self.stored: set[str] = set()
        """SHA-256 of the contents that the fork server has."""
        self.loading = False
        """Whether the fork server is loading TensorFlow, and so reads no orders."""
        self._strange = ""
        self._news = news
        self._hear = hear
        self._writing = threading.Lock()
        self._over = threading.Event()
        self._held = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._log = self._held.enter_context(tempfile.TemporaryFile("w+", errors="replace"))
        self._program = subprocess.Popen(
            self.way.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            start_new_session=True,  # Ctrl-C reaches only this program, which then ends the others
        )
        assert self._program.stdin is not None
        self._orders = self._program.stdin
        with contextlib.suppress(AttributeError, OSError):  # only on Linux: a larger pipe needs fewer writes for a file
            fcntl.fcntl(self._orders.fileno(), fcntl.F_SETPIPE_SZ, CAPACITY)
        self._threads = [threading.Thread(target=self._read, name=f"{self.way.title}: events", daemon=True)]
        if self.way.silence:
            self._threads += [threading.Thread(target=self._beat, name=f"{self.way.title}: orders", daemon=True)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.finish()
        self._ended()
        for thread in self._threads:
            thread.join()
        self._held.close()

    @property
    def pid(self) -> int:
        """The process id of the program; on this machine, the program is the fork server itself."""
        return self._program.pid

    def begin(self) -> None:
        """Let the fork server load TensorFlow. Raises `ClusterDown`."""
        self.loading = True
        self.send(Begin())

    def send(self, order: Request) -> None:
        """Send `order`. Raises `ClusterDown` if the connection has ended."""
        line = memoryview(msgspec.json.encode(order) + b"\n")
        try:
            with self._writing:
                while line:
                    line = line[self._orders.write(line) or 0 :]
        except (OSError, ValueError):
            self._threads[0].join()
            raise ClusterDown(self.failure()) from None

    def finish(self) -> None:
        """End the orders, so that the fork server ends its processes and itself. Returns at once."""
        self._over.set()
        with contextlib.suppress(OSError):
            self._orders.close()
        if self.loading:  # it does not read its input until TensorFlow is loaded
            self._program.terminate()

    def failure(self) -> str:
        """The error text that tells why the connection has ended."""
        status = self._ended()
        if self._strange:
            return f"{self.way.title}{self._strange}"
        self._log.seek(0)
        log = self._log.read()
        return f"{self.way.title} {ending(status)}{last_line(log)}{self.way.remedy(status, log)}"

    def _ended(self) -> int:
        """The exit status of the program, which is killed if it does not end in time."""
        try:
            return self._program.wait(END)
        except subprocess.TimeoutExpired:
            self._program.kill()
            return self._program.wait()

    def _beat(self) -> None:
        while True:  # the first order is sent at once: the connection may fail before TensorFlow is loaded
            with contextlib.suppress(ClusterDown):
                self.send(Alive(self.way.silence))
            if self._over.wait(self.way.silence / BEATS):
                return

    def _read(self) -> None:
        try:
            self._follow()
        except msgspec.DecodeError as error:  # with `--versions any`, the host may use another version of the protocol
            self._strange = f" says what is no event ({error}); install the same version of this package there"
            self._program.terminate()
        with self._news:
            self.broken = True
            self._news.notify_all()

    def _follow(self) -> None:
        """Handle events until the end of the output. Raises `DecodeError` for a line that is no event."""
        assert self._program.stdout is not None
        with self._program.stdout as events:
            rest, marked = b"", False
            while data := events.read(2**16):
                *lines, rest = (rest + data).split(b"\n")
                for line in lines:
                    if marked:
                        self._take(msgspec.json.decode(line, type=Event))
                    marked = marked or line == MARK

    def _take(self, event: Event) -> None:
        with self._news:
            if isinstance(event, Hello):
                self.hello = event
            elif isinstance(event, Begun):
                self.loading = False
            else:
                self._hear(self, event)
            self._news.notify_all()


def ending(status: int) -> str:
    """A text that tells how a process with exit status `status` (negative: the signal that ended it) has ended."""
    return f"was ended by {Signals(-status).name}" if status < 0 else f"ended with status {status}"


def last_line(log: str) -> str:
    """The last log line that is not from TensorFlow, as the end of an error text; empty if there is none."""
    lines = [line for line in log.strip().splitlines() if line.strip() and not LIBRARY.match(line)]
    return f": {lines[-1]}" if lines else ""
