"""The server of the fault tests: a process whose handler can be slow and counts messages, and what starts it.

python -m tests.faults.server grpc rpyc      # READY grpc=127.0.0.1:40001 rpyc=127.0.0.1:40002

A message with a field `wait` is answered after that many seconds. A message `hold` is answered once a message `release`
has arrived. A message `begun` is answered with the number of other messages that the handler has begun, over any
transport.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import transports
from transports import Address, Message
from transports.process import parse_ready

WORKERS = 4
ROOT = Path(__file__).parent.parent.parent


class Echo:
    """A handler that returns every message."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._begun = 0
        self._released = threading.Event()

    def __call__(self, message: Message) -> Message:
        if message.method == "begun":
            return Message("begun", {"count": self._begun})
        with self._lock:
            self._begun += 1
        if message.method == "release":
            self._released.set()
        elif message.method == "hold":
            self._released.wait()
        elif wait := float(message.fields.get("wait", 0.0)):
            threading.Event().wait(wait)
        return message


@contextmanager
def echoing(*names: str, options: Mapping[str, str] = {}, port: int = 0) -> Iterator[tuple[dict[str, Address], int]]:
    """Start a process that serves the transports `names` with `options`; its addresses by transport, and its id."""
    given = [word for key, value in options.items() for word in ("--option", f"{key}={value}")]
    command = [sys.executable, "-m", __name__, *names, *given, "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        ready, *words = process.stdout.readline().split() or ["nothing"]
        assert ready == "READY", ready
        try:
            yield parse_ready(words), process.pid
        finally:
            process.stdin.close()
            process.wait(60)


def serve(names: list[str], options: Mapping[str, str], port: int) -> None:
    with ExitStack() as servers:
        echo = Echo()
        made = {name: transports.make(name, options).serve(echo, "127.0.0.1", port, WORKERS) for name in names}
        print("READY", *(f"{name}={servers.enter_context(one).address}" for name, one in made.items()), flush=True)
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--option", action="append", default=[])
    parser.add_argument("--port", type=int, default=0, help="of the one transport that is named; 0: free ones")
    given = parser.parse_args()
    serve(given.names, transports.parse_options(given.option), given.port)


if __name__ == "__main__":
    main()
