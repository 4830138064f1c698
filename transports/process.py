"""Common parts of serving processes: the command line, the announcement, the end on a signal, and memory settings.

The announcement is one line, `READY NAME=HOST:PORT ...`, written as soon as calls are accepted.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import select
import signal
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from transports.address import Address

MALLOC = ("keep", "default")
"""Whether the C library keeps freed memory for the next message, or returns it to the kernel (its default)."""
MALLOPT = {"M_MMAP_THRESHOLD": (-3, 32 * 2**20), "M_TRIM_THRESHOLD": (-1, 256 * 2**20), "M_TOP_PAD": (-2, 64 * 2**20)}
"""Parameters of mallopt(3), each with the bytes that `keep` sets. glibc accepts no larger mmap threshold.

A thread allocates from heaps of 64 MB. glibc unmaps a heap as soon as it is empty, unless the heap before it has less
room than the pad. With a smaller pad, a tensor of 26 MB causes 6,300 page faults per request in some processes and none
in others, depending on their memory layout."""


MAIN = """\
import importlib, sys
root, module, *sys.argv[1:] = sys.argv[1:]
if root not in sys.path:
    sys.path.insert(0, root)
sys.exit(importlib.import_module(module).main())
"""
ROOT = Path(__file__).parents[1]
"""The folder that contains this program's packages."""


def command(module: str, *words: str) -> list[str]:
    """The command that calls `main` of this program's `module` in a new process, with `words` as arguments.

    Unlike `python -m`, it imports nothing from the working directory, where a user may have a package of that name.
    """
    return [sys.executable, "-P", "-c", MAIN, str(ROOT), module, *words]


def ready_line(addresses: Mapping[str, Address]) -> str:
    """The announcement of a process that listens at `addresses`."""
    return " ".join(["READY", *(f"{name}={address}" for name, address in addresses.items())])


def parse_ready(words: Iterable[str]) -> dict[str, Address]:
    """`["grpc=127.0.0.1:7000", ...]`, the words after READY -> addresses by name. Raises `ValueError`."""
    pairs = (word.partition("=") for word in words)
    return {name: Address.parse(address) for name, _, address in pairs}


class StopSignal:
    """A flag that is set by SIGTERM, Ctrl-C, SIGHUP (unless SIGHUP is ignored, as under nohup), a call of `set`, and,
    with `until_eof`, by the end of standard input. It stays set.

    It takes no lock, so that a signal can arrive at any moment: the interpreter's own handler writes a byte to a pipe,
    and `wait` polls that pipe. A signal handler that set a `threading.Event` would block for ever if the main thread
    held the event's lock at that moment. It starts no thread. Make it in the main thread, once per process.
    """

    def __init__(self, until_eof: bool = False) -> None:
        self._watched, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._until_eof = until_eof
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        for number in (signal.SIGTERM, signal.SIGINT, *(() if ignored else (signal.SIGHUP,))):
            signal.signal(number, lambda *_: None)  # without a handler in Python, nothing is written to the pipe

    def set(self) -> None:
        """Set the flag. Any thread may call this."""
        with contextlib.suppress(BlockingIOError):  # a full pipe: the flag is set already
            os.write(self._wake, b"\0")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait up to `timeout` seconds (None: without a limit) until the flag is set. Returns whether it is set."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        while True:
            watched = [self._watched, 0] if self._until_eof else [self._watched]
            left = None if until == math.inf else max(0.0, until - time.monotonic())
            found, _, _ = select.select(watched, [], [], left)
            if self._watched in found:  # the bytes remain in the pipe, so that the flag stays set
                return True
            if not found:
                return False
            if not _read_some():
                self._until_eof = False
                self.set()


def _read_some() -> bytes:
    # Does not use sys.stdin, whose buffer would hide bytes from `select`.
    try:
        return os.read(0, 4096)
    except OSError:
        return b""


def keep_memory() -> bool:
    """Let the C library keep freed memory for the next message. Returns False if there is no glibc."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        taken = [mallopt(parameter, value) == 1 for parameter, value in MALLOPT.values()]
        return all(taken)
    return False


def freeze_garbage() -> None:
    """Exclude everything loaded so far from garbage collection: walking a model takes about 170 ms of a request."""
    gc.collect()
    gc.freeze()
