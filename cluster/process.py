"""A process of the cluster: `python -m cluster.process registry ...` or `python -m cluster.process node ...`.

It binds its ports, prints one line `READY name=HOST:PORT ...` when others may call it, and ends on SIGTERM, on Ctrl-C,
or (`--until-eof`) when its standard input closes, so that it never outlives the program that started it. A node that is
told to end gives its portion back, refuses new requests, and lets those that are under way finish first.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import transports
from cluster.leases import LEAST_LEASE, Leases
from cluster.registry import Registry
from partitioning.silence import silenced
from transports.address import Address
from transports.base import Transport
from transports.errors import SplitbenchError, UsageError
from transports.process import MALLOC, StopSignal, keep_memory, parse_ready, ready_line

DRAIN = 3.0
"""Seconds that requests under way have to finish in when a node is told to end."""


@dataclass(frozen=True)
class Service:
    """What listens where, and what is to be done before it stops."""

    addresses: Mapping[str, Address]
    finish: Callable[[], None] = lambda: None


def main(argv: list[str] | None = None, announce: Callable[[str], None] | None = None) -> int:
    """Run the process that `argv` describes until it is told to end; its exit status.

    `announce` takes the READY line; without it, it goes to standard output.
    """
    arguments = _parser().parse_args(argv)
    stop = StopSignal(arguments.until_eof)
    try:
        options = transports.parse_options(arguments.option)
        chosen = {name: transports.make(name, options) for name in arguments.transport.split(",")}
        for transport in chosen.values():
            transports.check_host(arguments.host, transport.options, arguments.insecure)
        with contextlib.ExitStack() as stack:
            service = arguments.run(arguments, chosen, stack, stop)
            line = ready_line(service.addresses)
            announce(line) if announce else print(line, flush=True)
            stop.wait()
            service.finish()
    except SplitbenchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _run_registry(
    arguments: argparse.Namespace,
    chosen: Mapping[str, Transport],
    stack: contextlib.ExitStack,
    stop: StopSignal,
) -> Service:
    from cluster.node_server import addresses, serve_all

    registry = Registry(Leases(arguments.servers, arguments.replicas, arguments.lease))
    at = Address(arguments.host, arguments.port)
    return Service(addresses(serve_all(registry.handle, chosen, at, arguments.workers, stack)))


def _run_node(
    arguments: argparse.Namespace,
    chosen: Mapping[str, Transport],
    stack: contextlib.ExitStack,
    stop: StopSignal,
) -> Service:
    from cluster.model_servers.stages import ModelServerClients
    from cluster.node_server import NodeServer, load_shards

    registries = _given("--registry", arguments.registry)
    if missing := chosen.keys() - registries:
        raise UsageError(f"--registry: where does it listen over {', '.join(sorted(missing))}? give NAME=HOST:PORT")
    servers = [_given("--model-server", word.split(",")) for word in arguments.model_server]
    tune(arguments.threads, arguments.malloc)
    model_clients = ModelServerClients(servers)
    stack.callback(model_clients.close)
    host = NodeServer(
        chosen,
        registries,
        lambda server: load_shards(arguments.exports, arguments.digest, server, model_clients),
        at=Address(arguments.host, arguments.port),
        workers=arguments.workers,
        claim=arguments.portion,
        patience=arguments.patience,
        stop=stop,
    )
    stack.callback(host.close)
    return Service(host.addresses, lambda: host.finish(DRAIN))


def _given(flag: str, words: Iterable[str]) -> dict[str, Address]:
    """What `flag` says. Raises `UsageError`."""
    try:
        return parse_ready(words)
    except ValueError as error:
        raise UsageError(f"{flag}: {error}") from None


def tune(threads: int, malloc: str) -> dict[str, int | str]:
    """Set what a process that executes stages needs set before TensorFlow runs; what is set, for the record.

    `threads`: within an operation and between operations; 0 leaves the choice to TensorFlow (one a core).
    `malloc`: `keep` has the C library keep freed memory. By default it gives every block of a tensor's size back to the
    kernel and takes a new one for the next message, whose pages then have to be faulted in one by one.
    """
    with silenced():
        import tensorflow as tf

    setting = tf.config.threading
    if threads:
        setting.set_intra_op_parallelism_threads(threads)
        setting.set_inter_op_parallelism_threads(threads)
    return {
        "intra_op": setting.get_intra_op_parallelism_threads(),
        "inter_op": setting.get_inter_op_parallelism_threads(),
        "malloc": "keep" if malloc == "keep" and keep_memory() else "default",
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m cluster.process", description=__doc__)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--transport", default="grpc", help="names, with commas: each gets a port of its own")
    common.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    common.add_argument("--insecure", action="store_true", help="bind a --host beyond this machine without TLS")
    common.add_argument("--port", type=int, default=0, help="of the first transport; the next ones follow (0: free)")
    common.add_argument(
        "--workers", type=int, default=16, help="calls at a time on each transport (default: %(default)s)"
    )
    common.add_argument("--option", action="append", default=[], metavar="NAME.KEY=VALUE", help="of one transport")
    common.add_argument("--until-eof", action="store_true", help="end when standard input closes")
    kinds = parser.add_subparsers(required=True, metavar="registry|node")
    registry = kinds.add_parser("registry", parents=[common], help="who holds what, and where tensors are awaited")
    registry.add_argument("--servers", type=int, required=True, help="portions of the model")
    registry.add_argument(
        "--replicas", type=int, default=1, help="servers that may hold a portion (default: %(default)s)"
    )
    registry.add_argument(
        "--lease",
        type=_seconds,
        default=10.0,
        help="seconds until a server that is gone is absent (default: %(default)s)",
    )
    registry.set_defaults(run=_run_registry)
    node = kinds.add_parser("node", parents=[common], help="holds and executes a portion of the model")
    node.add_argument("--registry", nargs="+", required=True, metavar="NAME=HOST:PORT", help="on each transport")
    node.add_argument("--exports", type=Path, required=True, help="the folder that the launcher wrote")
    node.add_argument("--digest", required=True, help="SHA-256 of the folder's manifest.json: nothing else is loaded")
    node.add_argument("--portion", type=int, help="the portion to ask for (default: one that is missing)")
    node.add_argument(
        "--patience", type=float, default=0.0, help="seconds to wait for a free portion (default: %(default)s)"
    )
    node.add_argument("--threads", type=int, default=0, help="TensorFlow's intra-op threads (0: its own choice)")
    node.add_argument("--malloc", choices=MALLOC, default="keep", help="keep freed memory for the next message, or not")
    node.add_argument(
        "--model-server",
        action="append",
        default=[],
        metavar="grpc=HOST:PORT,rest=HOST:PORT",
        help="that executes the stages of a server, for the engines that call one; once for each server, in order",
    )
    node.set_defaults(run=_run_node)
    return parser


def _seconds(text: str) -> float:
    if (value := float(text)) >= LEAST_LEASE:
        return value
    raise argparse.ArgumentTypeError(f"{text} is too short; valid: {LEAST_LEASE} seconds or more")


if __name__ == "__main__":
    sys.exit(main())
