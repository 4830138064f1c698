"""A process that has loaded TensorFlow and forks the processes of a cluster (`transports.process.command`).

Loading TensorFlow takes seconds of processor time; forked processes have it at once and share its memory. Forking is
safe because TensorFlow has not run yet, and because this process starts no thread: one loop reads orders, reaps
children and writes events (`cluster.launchers.protocol`). Each child has its own session, log and sockets.

The process reads orders from standard input and writes events to standard output; both may be ends of a connection to
another machine. Events are written to a copy of the descriptor, made before any library is loaded, so output of
libraries goes to the log. At the end of the input, or after a silence if the launcher has set a limit, this process
ends every child and deletes its folder. If it is killed, the standard input of each child closes, and the child ends
and deletes the folder.

    python -P -m cluster.launchers.fork_server [FOLDER]

Without FOLDER, as on another machine, it makes a folder, and keeps received contents in the user's cache.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import select
import selectors
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from cluster import facts, resource_limits, scratch
from cluster.config import Config
from cluster.launchers.contents import Contents, user_cache
from cluster.launchers.protocol import (
    CHUNK,
    MARK,
    Alive,
    Ask,
    Begin,
    Begun,
    Ended,
    Event,
    Hello,
    Lacking,
    Ready,
    Request,
    Secret,
    Signal,
    Start,
    Store,
    Tail,
    Tailed,
    Tick,
    Tock,
)
from cluster.resource_limits import Group, Limits
from partitioning.loading import load_tensorflow
from transports.address import Address
from transports.errors import UsageError

PRELOADED = ("partitioning.archive", "partitioning.engines", "cluster.node_server", "cluster.process")
GRACE = 5.0
"""Seconds within which a child has to end before it is killed."""
TAIL = 2048
"""Bytes from the end of a log that an event carries."""
EXCEEDED = "\nit needed more memory than its limit, `memory` of its host"
"""The last line of the log of a process that the kernel has killed for exceeding its memory limit."""
ENDING = {signal.SIGTERM}
"""The signals that let a child end in an orderly way."""
ATOMIC = 4096 if sys.platform == "linux" else 512
"""PIPE_BUF: writes of up to so many bytes are never interleaved with writes of other processes."""


def main() -> int:
    """Serve until the input ends or SIGTERM arrives; then end the children. Returns the exit status."""
    events = os.dup(1)
    os.dup2(2, 1)
    os.write(events, b"\n" + MARK + b"\n")
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        if sys.argv[1:]:
            folder, cache = Path(sys.argv[1]), None
        else:
            scratch.sweep(scratch.SHORT)
            folder, cache = stack.enter_context(scratch.folder(scratch.SHORT)), user_cache()
        stack.callback(delete, folder)
        ForkServer(folder, cache, events).serve()
    return 0


def delete(folder: Path) -> None:
    """Delete the launcher's folder, and its parent folder if the client has ended without deleting it."""
    shutil.rmtree(folder, ignore_errors=True)
    scratch.remove_dead(folder.parent)


def _at_end(lifeline: int) -> bool:
    """Whether the other end of `lifeline` is closed. Nothing is ever written to it.

    A process can see this before it can see that its parent has ended: the kernel closes the parent's files first.
    """
    return bool(select.select([lifeline], [], [], 0)[0])


class _Child(NamedTuple):
    name: str
    group: Group


class ForkServer:
    """The loop. `folder` holds contents, files and logs; `events` is the descriptor for events."""

    def __init__(self, folder: Path, cache: Path | None, events: int) -> None:
        for part in ("files", "logs", "tmp", "secrets"):
            (folder / part).mkdir(mode=0o700, parents=True, exist_ok=True)
        os.environ["TMPDIR"] = str(folder / "tmp")  # TensorFlow leaves files there when a process is killed
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        self._folder = folder
        self._contents = Contents(folder / "contents", cache)
        self._events = events
        self._children: dict[int, _Child] = {}
        self._parts: list[bytes] = []
        self._silence: float | None = None
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
        """Send `Hello`, carry out orders until the input ends or is silent for too long, and end the children."""
        self._tell(Hello(str(self._folder), {**facts.versions(), "code": facts.code()}, facts.facts()))
        while self._wait(self._silence):
            pass
        self._selector.unregister(0)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for child in self._children.values():
                self._signal(child.name, number)
            deadline = time.monotonic() + GRACE
            while self._children and (left := deadline - time.monotonic()) > 0:
                self._wait(left)

    def _wait(self, timeout: float | None) -> bool:
        """Handle input and signals that arrive within `timeout` seconds. Returns False if none arrive, at the end of
        the input, and on SIGTERM."""
        found = self._selector.select(timeout)
        going = bool(found)
        for key, _ in found:
            if key.fd == 0:
                going &= self._read()
            else:
                going &= signal.SIGTERM not in os.read(self._woken, 4096)
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                break
            name, group = self._children.pop(pid)
            why = EXCEEDED if group.exceeded() else ""
            group.remove()
            self._tell(Ended(name, os.waitstatus_to_exitcode(status), self._tail(name) + why))
        return going

    def _read(self) -> bool:
        data = os.read(0, 2 * CHUNK)
        *lines, rest = data.split(b"\n")
        if lines:
            lines[0] = b"".join([*self._parts, lines[0]])
            self._parts = []
        self._parts.append(rest)
        for line in lines:
            self._carry_out(msgspec.json.decode(line, type=Request))
        return bool(data)

    def _carry_out(self, order: Request) -> None:
        match order:
            case Begin():
                self._load()
                self._tell(Begun())
            case Alive(silence):
                self._silence = silence
            case Ask(wanted):
                self._tell(Lacking(self._contents.lacking(wanted)))
            case Store(sha256, offset, piece, last):
                self._contents.add(sha256, offset, piece, last)
            case Secret(name, data):
                (path := self._folder / "secrets" / name).touch(mode=0o600)
                path.write_bytes(data)
            case Start(name, config):
                self._start(name, config)
            case Signal(name, number):
                self._signal(name, number)
            case Tail(name):
                self._tell(Tailed(name, self._tail(name)))
            case Tick():
                self._tell(Tock(time.time(), facts.load()[0]))

    def _load(self) -> None:
        """Load TensorFlow. Meanwhile this process reads no orders, and SIGTERM ends it at once."""
        handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
        load_tensorflow()
        for module in PRELOADED:
            importlib.import_module(module)
        signal.signal(signal.SIGTERM, handler)

    def _start(self, name: str, config: Config) -> None:
        files = self._folder / "files" / name
        shutil.rmtree(files, ignore_errors=True)
        for path, sha256 in config.files.items():
            self._contents.link(sha256, files / path)
        (log := self._log(name)).unlink(missing_ok=True)
        try:
            group = resource_limits.make(Limits(config.cpu, config.memory), name)
        except UsageError as error:
            self._tell(Ended(name, 2, f"error: {error}"))
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)  # until the child has replaced its parent's handler
        pid = os.fork()
        if pid == 0:
            self._become(name, msgspec.structs.replace(config, folder=str(files)), log, group)
        self._children[pid] = _Child(name, group)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)

    def _become(self, name: str, config: Config, log: Path, group: Group) -> None:
        """In the child: leave the parent's session and descriptors, run, and exit without the parent's clean-up."""
        status = 1
        try:
            os.setsid()
            group.join()
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
            if _at_end(0):  # the fork server was killed, and perhaps its launcher too
                group.leave()
                delete(self._folder)
            os._exit(status)

    def _signal(self, name: str, number: int) -> None:
        """Send a signal to the process and its children, unless the process has ended."""
        for pid in [pid for pid, child in self._children.items() if child.name == name]:
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
        while len(line) > ATOMIC and isinstance(event, Ended | Tailed):
            event = msgspec.structs.replace(event, tail=event.tail[len(event.tail) // 4 + 1 :])
            line = msgspec.json.encode(event) + b"\n"
        with contextlib.suppress(OSError):
            os.write(self._events, line)


if __name__ == "__main__":
    sys.exit(main())
