"""Where the processes of a cluster are born: a process that has TensorFlow loaded and forks on request.

Loading TensorFlow takes a process seconds of both cores; forked, five nodes have it at once, and share its memory.
Nothing of it has run when a child is forked (no session, no thread pool, no channel), which is what makes that safe.
The children are processes in their own right: own session, own log, own sockets.

    standard input    a line of JSON for each child: {"name": ..., "module": ..., "arguments": [...], "log": PATH}
    standard output   `NAME PID n`, then `NAME READY ...` (`cluster.process`), and at last `NAME EXIT status`

When standard input closes, every child is ended. When this process is killed, each child sees its own standard input
close, and goes.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

PRELOADED = ("tensorflow", "partitioning.archive", "partitioning.engines", "cluster.node_server", "cluster.process")
GRACE = 5.0
"""Seconds that a child has to end by itself before it is killed."""


def main() -> int:
    """Fork children until standard input closes, then end those that are left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for module in PRELOADED:
        importlib.import_module(module)
    lifeline, held = os.pipe()
    waiters: dict[int, threading.Thread] = {}
    for line in sys.stdin:
        order = json.loads(line)
        pid = os.fork()
        if pid == 0:
            os.close(held)
            _become(order, lifeline)
        waiters[pid] = threading.Thread(target=_wait, args=(order["name"], pid), daemon=True)
        waiters[pid].start()
    _end(waiters)
    return 0


def _become(order: Mapping[str, object], lifeline: int) -> None:
    """In the child: take its place among the processes, run, and leave without the parent's clean-up."""
    status = 1
    try:
        os.setsid()
        log = os.open(str(order["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        for new, old in ((lifeline, 0), (log, 2)):
            os.dup2(new, old)
        with contextlib.suppress(OSError):
            Path("/proc/self/comm").write_text(str(order["name"]))  # what `ps` and `top` show; Linux alone has it
        _say(order["name"], f"PID {os.getpid()}")
        arguments = [str(word) for word in order["arguments"]]  # type: ignore[attr-defined]
        program = importlib.import_module(str(order["module"]))
        status = program.main([*arguments, "--until-eof"], announce=lambda text: _say(order["name"], text))
    except BaseException:
        traceback.print_exc()  # the log's last line is what the launcher quotes
    finally:
        sys.stderr.flush()
        os._exit(status)


def _wait(name: str, pid: int) -> None:
    _, status = os.waitpid(pid, 0)
    _say(name, f"EXIT {os.waitstatus_to_exitcode(status)}")


def _say(name: object, text: str) -> None:
    # One write of less than a pipe's buffer is never mixed with another process's, and takes no lock.
    with contextlib.suppress(OSError):
        os.write(1, f"{name} {text}\n".encode())


def _end(waiters: Mapping[int, threading.Thread]) -> None:
    for number, seconds in ((signal.SIGTERM, GRACE), (signal.SIGKILL, GRACE)):
        for pid, waiter in waiters.items():
            if waiter.is_alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
        deadline = time.monotonic() + seconds
        for waiter in waiters.values():
            waiter.join(max(0.0, deadline - time.monotonic()))


if __name__ == "__main__":
    sys.exit(main())
