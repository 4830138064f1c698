"""What every process that serves handlers does: announce its addresses, end when told to, keep its memory.

The announcement is one line, `READY NAME=HOST:PORT ...`, written once others may call.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import threading
from collections.abc import Iterable, Mapping

from transports.address import Address

MALLOC = ("keep", "default")
"""What the C library does with freed memory: keep it for the next message, or give it back to the kernel."""
MALLOPT = {"M_MMAP_THRESHOLD": (-3, 32 * 2**20), "M_TRIM_THRESHOLD": (-1, 256 * 2**20), "M_TOP_PAD": (-2, 64 * 2**20)}
"""Parameters of mallopt(3), each with the bytes that `keep` sets. glibc accepts no larger mmap threshold.

A thread allocates from heaps of 64 MB. glibc unmaps a heap as soon as it is empty, unless the heap before it has less
room than the pad. With a smaller pad, a tensor of 26 MB causes 6,300 page faults per request in some processes and none
in others, depending on their memory layout."""


def ready_line(addresses: Mapping[str, Address]) -> str:
    """The announcement of a process that listens at `addresses`."""
    return " ".join(["READY", *(f"{name}={address}" for name, address in addresses.items())])


def parse_ready(words: Iterable[str]) -> dict[str, Address]:
    """`["grpc=127.0.0.1:7000", ...]`, the words after READY -> addresses by name. Raises `ValueError`."""
    pairs = (word.partition("=") for word in words)
    return {name: Address.parse(address) for name, _, address in pairs}


def stop_event(until_eof: bool) -> threading.Event:
    """An event that is set on SIGTERM, on Ctrl-C and, with `until_eof`, when standard input closes."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if until_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    return stop


def _wait_for_eof(stop: threading.Event) -> None:
    # Not sys.stdin: this thread would hold its lock when the interpreter exits.
    while os.read(0, 4096):
        pass
    stop.set()


def keep_memory() -> bool:
    """Let the C library keep freed memory for the next message. Returns False where it cannot (only glibc can)."""
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        taken = [mallopt(parameter, value) == 1 for parameter, value in MALLOPT.values()]
        return all(taken)
    return False


def freeze_garbage() -> None:
    """Exclude everything loaded so far from garbage collection: walking a model takes about 170 ms of a request."""
    gc.collect()
    gc.freeze()
