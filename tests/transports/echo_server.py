"""A process that serves echoes over each transport that is named, until its standard input closes.

python tests/transports/echo_server.py grpc rpyc      # READY grpc=127.0.0.1:40001 rpyc=127.0.0.1:40002
python tests/transports/echo_server.py grpc --option grpc.max_message=700000000
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from contextlib import ExitStack

import transports
from transports import Message

WORKERS = 4


def echo(message: Message) -> Message:
    return message


def serve(names: list[str], options: Mapping[str, str]) -> None:
    with ExitStack() as servers:
        serving = {
            name: servers.enter_context(transports.make(name, options).serve(echo, "127.0.0.1", 0, WORKERS))
            for name in names
        }
        print("READY", *(f"{name}={server.address}" for name, server in serving.items()), flush=True)
        sys.stdin.read()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="+")
    parser.add_argument("--option", action="append", default=[])
    given = parser.parse_args()
    serve(given.names, transports.parse_options(given.option))


if __name__ == "__main__":
    main()
