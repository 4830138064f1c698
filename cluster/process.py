"""A process of the cluster: `python -m cluster.process registry ...` or `python -m cluster.process node ...`.

It binds free ports, prints one line `READY name=HOST:PORT ...` when others may call it, and ends on SIGTERM, on Ctrl-C,
or (`--until-eof`) when its standard input closes, so that it never outlives the program that started it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

import transports
from cluster.registry import Registry
from transports.base import Address, Transport
from transports.errors import SplitbenchError, UsageError

__all__ = ["main", "parse_ready", "set_threads"]


def main(argv: list[str] | None = None) -> int:
    """Run the process that `argv` describes until it is told to end; its exit status."""
    arguments = _parser().parse_args(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if arguments.until_eof:
        threading.Thread(target=_wait_for_eof, args=(stop,), daemon=True).start()
    try:
        options = transports.parse_options(arguments.option)
        chosen = {name: transports.make(name, options) for name in arguments.transport.split(",")}
        with contextlib.ExitStack() as stack:
            addresses = arguments.run(arguments, chosen, stack)
            print("READY", *(f"{name}={address}" for name, address in addresses.items()), flush=True)
            stop.wait()
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def parse_ready(line: str) -> dict[str, Address]:
    """`"READY grpc=127.0.0.1:7000 ..."` -> addresses by transport."""
    pairs = (item.partition("=") for item in line.split()[1:])
    return {name: Address.parse(address) for name, _, address in pairs}


def _run_registry(
    arguments: argparse.Namespace, chosen: Mapping[str, Transport], stack: contextlib.ExitStack
) -> dict[str, Address]:
    from cluster.host import serve_all

    registry = Registry(arguments.servers)
    return serve_all(registry.handle, chosen, arguments.host, arguments.workers, stack)


def _run_node(
    arguments: argparse.Namespace, chosen: Mapping[str, Transport], stack: contextlib.ExitStack
) -> dict[str, Address]:
    from cluster.host import Host, load_portions

    set_threads(arguments.threads)
    registries = parse_ready(f"READY {' '.join(arguments.registry)}")
    host = Host(
        chosen,
        registries,
        lambda server: load_portions(arguments.exports, server),
        host=arguments.host,
        workers=arguments.workers,
    )
    stack.callback(host.close)
    return host.addresses


def set_threads(threads: int) -> dict[str, int]:
    """Set TensorFlow's threads, within an operation and between operations; 0 leaves the choice to TensorFlow.

    Returns what is set, where 0 stands for one thread a core.
    """
    import tensorflow as tf

    setting = tf.config.threading
    if threads:
        setting.set_intra_op_parallelism_threads(threads)
        setting.set_inter_op_parallelism_threads(threads)
    return {
        "intra_op": setting.get_intra_op_parallelism_threads(),
        "inter_op": setting.get_inter_op_parallelism_threads(),
    }


def _wait_for_eof(stop: threading.Event) -> None:
    # Not sys.stdin: its lock would be held at exit by this thread.
    while os.read(0, 4096):
        pass
    stop.set()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.process", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--transport", default="grpc", help="names, with commas: each gets a port of its own")
    common.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    common.add_argument(
        "--workers", type=int, default=16, help="calls at a time on each transport (default: %(default)s)"
    )
    common.add_argument("--option", action="append", default=[], metavar="NAME.KEY=VALUE", help="of one transport")
    common.add_argument("--until-eof", action="store_true", help="end when standard input closes")
    kinds = parser.add_subparsers(required=True, metavar="registry|node")
    registry = kinds.add_parser("registry", parents=[common], help="who holds what, and where tensors are awaited")
    registry.add_argument("--servers", type=int, required=True, help="portions of the model")
    registry.set_defaults(run=_run_registry)
    node = kinds.add_parser("node", parents=[common], help="holds and executes a portion of the model")
    node.add_argument("--registry", nargs="+", required=True, metavar="NAME=HOST:PORT", help="on each transport")
    node.add_argument("--exports", type=Path, required=True, help="the folder that the launcher wrote")
    node.add_argument("--threads", type=int, default=0, help="TensorFlow's intra-op threads (0: its own choice)")
    node.set_defaults(run=_run_node)
    return parser


if __name__ == "__main__":
    sys.exit(main())
