"""Ends the processes of a network namespace. `unshare --net python holder.py` also keeps the namespace until then.

Rules of the program:
  - It prints `ready` once it is in its namespace, and runs until its standard input closes. The kernel closes that pipe
    when the process at its other end ends, in whatever way.
  - Then it ends every other process of the namespace, including daemons that have left their session, and itself. The
    kernel deletes a namespace without processes, and its interfaces.
  - It imports the standard library only, since each host starts one.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

GRACE = 2.0
"""Seconds between SIGTERM and SIGKILL."""
LIMIT = 10.0
"""Seconds in which killed processes must have ended."""


def namespace_of(pid: int | str) -> str:
    """The network namespace of a process, as `net:[4026531840]`. Raises `OSError` if the process has ended."""
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def processes(namespace: str) -> frozenset[int]:
    """The ids of the processes that have this network namespace."""
    found = set()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):  # the process has ended, or belongs to another user
                if namespace_of(folder.name) == namespace:
                    found.add(int(folder.name))
    return frozenset(found)


def end(namespace: str, keep: Collection[int] = (), grace: float = GRACE) -> None:
    """End all processes of the namespace but `keep`: SIGTERM, `grace` seconds to end (0: none), SIGKILL.

    Raises `TimeoutError` if a process has not ended `LIMIT` seconds after SIGKILL.
    """
    if grace and _ended_by(signal.SIGTERM, namespace, keep, grace):
        return
    if not _ended_by(signal.SIGKILL, namespace, keep, LIMIT):
        raise TimeoutError(f"processes of {namespace} outlive SIGKILL: {sorted(processes(namespace) - {*keep})}")


def _ended_by(number: signal.Signals, namespace: str, keep: Collection[int], seconds: float) -> bool:
    """Send a signal to the processes, and to processes that they start meanwhile. Whether all end within `seconds`."""
    limit = time.monotonic() + seconds
    while True:
        with contextlib.ExitStack() as stack:
            waiting = set(_handles(namespace, keep, stack))
            if not waiting:
                return True
            poll = select.poll()
            for handle in waiting:
                poll.register(handle, select.POLLIN)
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)
            while waiting:
                left = limit - time.monotonic()
                if left <= 0:
                    return False
                for handle, _ in poll.poll(left * 1000):
                    poll.unregister(handle)
                    waiting.remove(handle)


def _handles(namespace: str, keep: Collection[int], stack: contextlib.ExitStack) -> Iterator[int]:
    """Open a descriptor of each process, since a process id could belong to another process by the time it is used."""
    for pid in processes(namespace) - {*keep}:
        with contextlib.suppress(OSError):
            handle = os.pidfd_open(pid)
            stack.callback(os.close, handle)
            if namespace_of(pid) == namespace:
                yield handle


def main() -> None:
    """Run the program."""
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    print("ready", flush=True)
    sys.stdin.buffer.read()
    end(namespace_of("self"), {os.getpid()})


if __name__ == "__main__":
    main()
