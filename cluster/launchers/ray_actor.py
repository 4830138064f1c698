"""A Ray actor with a fork server as its child process, whose input and output cross as calls of the actor.

Rules:
  - The class is sent to Ray's worker by value, since the package may be missing in the worker's Python. So this module
    imports the standard library only.
  - The actor's process has the only write end of the fork server's standard input, which therefore closes however the
    actor's process ends. The fork server then ends, with its processes, and deletes their folder.
  - Ray kills the children of a worker that ends, but not the children's children. A shell between the actor and the
    fork server therefore gives the fork server time to end in an orderly way.
  - Ray runs the calls of an actor with several threads in any order, so each piece of input has a number.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

SHELL = ("/bin/sh", "-c", '"$@"; exit $?', "sh")
"""A shell that runs the words after it as a command in a child; without `exit $?`, it would become the program."""


class Actor:
    """Carries bytes to and from a program. Its methods are called from several threads."""

    def __init__(self, python: str, arguments: Sequence[str]) -> None:
        """Start `python` (empty: this worker's Python) with `arguments`. If it does not exist, the log says so."""
        self._turn = threading.Condition()
        self._next = 0
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it is deleted already, and closes with the actor
        self._program = subprocess.Popen(
            [*SHELL, python or sys.executable, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            bufsize=0,
            env=environment(),
            start_new_session=True,
        )
        # Reaps the program even if the connection to the bridge is lost, and no further call comes.
        threading.Thread(target=self._program.wait, daemon=True).start()

    def write(self, number: int, *pieces: bytes) -> None:
        """Write piece `number` of the input, from 0 on, when its turn comes. A call without pieces closes the input.

        Input for a program that has ended is dropped.
        """
        assert self._program.stdin is not None
        with self._turn:
            self._turn.wait_for(lambda: self._next == number)
        with contextlib.suppress(OSError):
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[self._program.stdin.write(rest) or 0 :]
            if not pieces:
                self._program.stdin.close()
        with self._turn:
            self._next += 1
            self._turn.notify_all()

    def read(self, size: int) -> bytes:
        """The next bytes of the program's output, up to `size`. Waits until there are some; empty at the end."""
        assert self._program.stdout is not None
        return os.read(self._program.stdout.fileno(), size)

    def ended(self, size: int) -> tuple[int, str]:
        """Wait for the program's end. Returns its exit status as in a shell (128 + N: ended by signal N), and the last
        `size` bytes of its log."""
        status = self._program.wait()
        self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - size))
        return status, self._log.read().decode(errors="replace")

    def kill(self) -> None:
        """Kill the program. Its children end by themselves."""
        with contextlib.suppress(OSError):
            os.killpg(self._program.pid, signal.SIGKILL)

    def alive(self) -> None:
        """Return at once, to show that the actor is alive."""


def environment() -> dict[str, str]:
    """The environment variables with which Ray has started this process, without Ray's own variables.

    Ray changes variables in the running worker: it sets OMP_NUM_THREADS if the user has not, and hides GPUs that the
    actor did not ask for. Only Linux keeps the original values; on other systems OMP_NUM_THREADS is removed.
    """
    try:
        lines = Path("/proc/self/environ").read_bytes().split(b"\0")
        found = dict(os.fsdecode(line).split("=", 1) for line in lines if b"=" in line)
    except OSError:
        found = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    own = ("RAY_", "SPT_NOENV")
    return {name: value for name, value in found.items() if not name.startswith(own)}
