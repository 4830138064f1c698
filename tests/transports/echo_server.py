"""A process that serves echoes over each transport that is named, until its standard input closes.

python tests/transports/echo_server.py grpc rpyc      # READY grpc=127.0.0.1:40001 rpyc=127.0.0.1:40002
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

import transports
from transports import Message

WORKERS = 4


def echo(message: Message) -> Message:
    return message


def main(names: list[str]) -> None:
    with ExitStack() as servers:
        serving = {
            name: servers.enter_context(transports.load(name)().serve(echo, "127.0.0.1", 0, WORKERS)) for name in names
        }
        print("READY", *(f"{name}={server.address}" for name, server in serving.items()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1:])
