"""A process that has loaded TensorFlow and forks the processes of a cluster (`transports.process.command`).

Loading TensorFlow takes seconds of processor time; forked processes have it at once and share its memory. Forking is
safe because TensorFlow has not run yet, and because this process starts no thread: one loop reads orders, reaps
children and writes events. Each child has its own session, log and sockets.

    standard input    orders, a line of JSON each (`Store`, `Start`, `Signal`, `Tail`)
    standard output   events, a line of JSON each (`Ready`, `Ended`, `Tailed`)

Both may be the ends of a connection to another machine. The events are written to a copy of the descriptor, made before
any library is loaded; what libraries print goes to the log. At the end of the input this process ends every child and
deletes FOLDER. If it is killed, the standard input of each child closes, and the child ends and deletes FOLDER.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import selectors
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from cluster import scratch
from cluster.config import Config
from partitioning.loading import load_tensorflow
from transports.address import Address

PRELOADED = ("partitioning.archive", "partitioning.engines", "cluster.node_server", "cluster.process")
GRACE = 5.0
"""Seconds in which a child has to end before it is killed."""
TAIL = 2048
"""Bytes at the end of a log that an event carries."""
ENDING = {signal.SIGTERM}
"""The signals that end a child in order."""
ATOMIC = 4096 if sys.platform == "linux" else 512
"""PIPE_BUF: writes of up to so many bytes are never interleaved with those of another process."""
MARK = b"events of the fork server:"
"""The line before the first event. Lines before it were printed by a shell, or at the start of the interpreter."""
CHUNK = 2**18
"""Bytes of a file in one order."""


class Store(Struct, frozen=True, tag=True):
    """A piece of the content with that SHA-256, at `offset`; the pieces come in sequence."""

    sha256: str
    offset: int
    data: bytes


class Start(Struct, frozen=True, tag=True):
    """Start a process with the files in its document, whose contents have been stored."""

    name: str
    config: Config


class Signal(Struct, frozen=True, tag=True):
    name: str
    number: int


class Tail(Struct, frozen=True, tag=True):
    name: str


class Ready(Struct, frozen=True, tag=True):
    name: str
    addresses: dict[str, str]


class Ended(Struct, frozen=True, tag=True):
    name: str
    status: int
    tail: str


class Tailed(Struct, frozen=True, tag=True):
    name: str
    tail: str


Request = Store | Start | Signal | Tail
Event = Ready | Ended | Tailed


def main() -> int:
    """Serve until the input ends or SIGTERM comes; then end the children. The first argument is FOLDER."""
    folder = Path(sys.argv[1])
    events = os.dup(1)
    os.dup2(2, 1)
    os.write(events, b"\n" + MARK + b"\n")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for part in ("contents", "files", "logs", "tmp"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(folder / "tmp")  # TensorFlow leaves files there when a process is killed
    load_tensorflow()
    for module in PRELOADED:
        importlib.import_module(module)
    try:
        ForkServer(folder, events).serve()
    finally:
        delete(folder)
    return 0


def delete(folder: Path) -> None:
    """Delete the launcher's folder, and the one around it if the client has ended without doing so."""
    shutil.rmtree(folder, ignore_errors=True)
    scratch.remove_dead(folder.parent)


class ForkServer:
    """The loop. `folder` holds contents, files and logs; `events` is the descriptor for events."""

    def __init__(self, folder: Path, events: int) -> None:
        self._folder = folder
        self._events = events
        self._pid = os.getpid()
        self._children: dict[int, str] = {}
        self._parts: list[bytes] = []
        self._lifeline, self._held = os.pipe()
        self._woken, wake = os.pipe()
        os.set_blocking(self._woken, False)
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._selector = selectors.DefaultSelector()
        self._selector.register(0, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> None:
        """Carry out orders until the input ends, then end the children."""
        while self._wait(None):
            pass
        self._selector.unregister(0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for name in self._children.values():
                self._signal(name, number)
            deadline = time.monotonic() + GRACE
            while self._children and (left := deadline - time.monotonic()) > 0:
                self._wait(left)

    def _wait(self, timeout: float | None) -> bool:
        """Handle input and signals that come within `timeout` seconds; False at the end of input and on SIGTERM."""
        going = True
        for key, _ in self._selector.select(timeout):
            if key.fd == 0:
                going &= self._read()
            else:
                going &= signal.SIGTERM not in os.read(self._woken, 4096)
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            name = self._children.pop(pid)
            self._tell(Ended(name, os.waitstatus_to_exitcode(status), self._tail(name)))
        return going

    def _read(self) -> bool:
        data = os.read(0, 2 * CHUNK)
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts = []
        self._parts.append(rest)
        for line in lines:
            match msgspec.json.decode(line, type=Request):
                case Store(sha256, offset, piece):
                    with (self._folder / "contents" / sha256).open("ab" if offset else "wb") as file:
                        file.write(piece)
                case Start(name, config):
                    self._start(name, config)
                case Signal(name, number):
                    self._signal(name, number)
                case Tail(name):
                    self._tell(Tailed(name, self._tail(name)))
        return bool(data)

    def _start(self, name: str, config: Config) -> None:
        files = self._folder / "files" / name
        shutil.rmtree(files, ignore_errors=True)
        for path, sha256 in config.files.items():
            (files / path).parent.mkdir(parents=True, exist_ok=True)
            os.link(self._folder / "contents" / sha256, files / path)
        (log := self._log(name)).unlink(missing_ok=True)
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # a child must not ignore it with the handler of its parent
        pid = os.fork()
        if pid == 0:
            self._become(name, msgspec.structs.replace(config, folder=str(files)), log)
        self._children[pid] = name
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def _become(self, name: str, config: Config, log: Path) -> None:
        """In the child: detach from the parent's session and descriptors, run, and exit without its clean-up."""
        status = 1
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGCHLD, signal.SIGTERM):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
            os.close(self._held)
            written = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            for new, old in ((self._lifeline, 0), (written, 1), (written, 2)):
                os.dup2(new, old)
            with contextlib.suppress(OSError):
                Path("/proc/self/comm").write_text(name)  # the name in `ps` and `top`; only Linux has it
            from cluster import process

            def announce(addresses: Mapping[str, Address]) -> None:
                self._tell(Ready(name, {key: str(address) for key, address in addresses.items()}))

            status = process.run(config, announce, until_eof=True)
        except SystemExit as ended:
            status = int(ended.code or 0)
        except BaseException:
            traceback.print_exc()  # the launcher quotes the last line of the log
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            if os.getppid() != self._pid:  # the fork server was killed, and perhaps its launcher too
                delete(self._folder)
            os._exit(status)

    def _signal(self, name: str, number: int) -> None:
        """Send a signal to the process and its children, unless the process has ended."""
        for pid in [pid for pid, child in self._children.items() if child == name]:
            try:
                os.killpg(pid, number)
            except (ProcessLookupError, PermissionError):  # before the child has called setsid()
                os.kill(pid, number)

    def _tail(self, name: str) -> str:
        try:
            with self._log(name).open("rb") as log:
                log.seek(max(0, log.seek(0, os.SEEK_END) - TAIL))
                return log.read().decode(errors="replace")
        except OSError:
            return ""

    def _log(self, name: str) -> Path:
        return self._folder / "logs" / name

    def _tell(self, event: Event) -> None:
        line = msgspec.json.encode(event) + b"\n"
        while len(line) > ATOMIC and not isinstance(event, Ready):
            event = msgspec.structs.replace(event, tail=event.tail[len(event.tail) // 4 + 1 :])
            line = msgspec.json.encode(event) + b"\n"
        with contextlib.suppress(OSError):
            os.write(self._events, line)
