"""A process that serves echoes over each transport that is named, until its standard input closes.

python -m tests.transports.echo_server grpc rpyc      # READY grpc=127.0.0.1:40001 rpyc=127.0.0.1:40002
python -m tests.transports.echo_server grpc --option grpc.max_message=700000000

A message with a field `wait` is answered after so many seconds; `begun` is answered with the count of those before it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack

import transports
from transports import Message

WORKERS = 4


class Echo:
    """A handler that gives every message back."""

    def __init__(self) -> None:
        self._begun = itertools.count()

    def __call__(self, message: Message) -> Message:
        if message.method == "begun":
            return Message("begun", {"count": next(self._begun)})
        next(self._begun)
        if wait := float(message.fields.get("wait", 0.0)):
            threading.Event().wait(wait)
        return message


def serve(names: list[str], options: Mapping[str, str], port: int) -> None:
    with ExitStack() as servers:
        echo = Echo()
        serving = {
            name: servers.enter_context(transports.make(name, options).serve(echo, "127.0.0.1", port, WORKERS))
            for name in names
        }
        print("READY", *(f"{name}={server.address}" for name, server in serving.items()), flush=True)
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
