"""A process of a cluster: a registry, a node or another server, described by one JSON document (`cluster.config`).

It binds its ports, prints one line `READY name=HOST:PORT ...` when others may call it, and ends on SIGTERM, on Ctrl-C,
or (`--until-eof`) when its standard input closes. A node that ends refuses new requests, finishes those in flight, and
gives its portion back.

    echo '{"kind": "registry", "servers": 2, "transports": ["grpc"]}' | python -m cluster.process --config -

exit status: 0 ended by a signal or the end of input; 1 failed; 2 the document cannot be used.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import transports
from cluster import config as documents
from cluster.config import (
    Config,
    ModelServerConfig,
    NodeConfig,
    ProbeConfig,
    ProfilerConfig,
    RayConfig,
    RegistryConfig,
    RelayConfig,
    SocketServerConfig,
    TensorFlowServerConfig,
)
from cluster.leases import Leases
from cluster.pinning import pin, usable
from cluster.registry import Registry
from partitioning import keras_settings
from partitioning.control_groups import control_group
from partitioning.errors import PartitionError
from partitioning.loading import load_tensorflow
from transports.address import Address
from transports.base import Transport
from transports.errors import SplitbenchError, UsageError
from transports.process import StopSignal, keep_memory, ready_line

DRAIN = 3.0
"""Seconds within which an ending node finishes the requests in flight."""
Finish = Callable[[], None]
"""A function that does the last work of a process before it ends."""


def run(config: Config, announce: Callable[[Mapping[str, Address]], None], until_eof: bool = False) -> int:
    """Run the process that `config` describes until it ends; returns its exit status.

    Calls `announce` with the addresses of the process as soon as it accepts calls. Raises `SystemExit` with the status
    of a model server's program, if that program ended by itself.
    """
    stop = StopSignal(until_eof)
    config.device.restrict()
    try:
        if config.cores:
            pin(config.cores)
        with contextlib.ExitStack() as stack:
            found, finish = PROGRAMS[type(config)](config, stack, stop)
            announce({name: config.advertised(address.port) for name, address in found.items()})
            stop.wait()
            finish()
    except (SplitbenchError, PartitionError) as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2 if isinstance(error, UsageError) else 1
    return 0


def _registry(
    config: RegistryConfig, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Finish]:
    from cluster.node_server import addresses, serve_all

    registry = Registry(Leases(config.servers, config.replicas, config.lease))
    at = Address(config.bind, config.port)
    return addresses(serve_all(registry.handle, _transports(config), at, config.workers, stack)), lambda: None


def _node(config: NodeConfig, stack: contextlib.ExitStack, stop: StopSignal) -> tuple[Mapping[str, Address], Finish]:
    from cluster.model_servers.client import ModelServerClients
    from cluster.node_server import NodeServer, load_shards, slowed

    chosen = _transports(config)
    registries = documents.addresses("registry", config.registry)
    if missing := chosen.keys() - registries:
        raise UsageError(f"registry: no address over {', '.join(sorted(missing))}; give NAME and HOST:PORT of each")
    servers = [documents.addresses("model_servers", server) for server in config.model_servers]
    tune(config.threads, config.malloc)
    model_clients = stack.enter_context(contextlib.closing(ModelServerClients(servers)))
    folder = Path(config.folder)
    server = NodeServer(
        chosen,
        registries,
        lambda portion: slowed(load_shards(folder, config.files, portion, model_clients), config.slowdown),
        at=Address(config.bind, config.port),
        advertise=config.advertise,
        workers=config.workers,
        claim=config.portion,
        patience=config.patience,
        stop=stop,
        host=config.host,
    )
    stack.callback(server.close)
    return server.addresses, lambda: server.finish(DRAIN)


def _probe(config: ProbeConfig, stack: contextlib.ExitStack, stop: StopSignal) -> tuple[Mapping[str, Address], Finish]:
    from cluster.node_server import addresses, serve_all
    from cluster.probe import Probe

    (served,) = _transports(config).items()
    all_ports = dict([served, *((f"port-{place}", served[1]) for place in range(1, config.ports))])
    handle, at = Probe(config.options).handle, Address(config.bind, config.port)
    return addresses(serve_all(handle, all_ports, at, config.workers, stack)), lambda: None


def _profiler(
    config: ProfilerConfig, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Finish]:
    from cluster.node_server import addresses, serve_all
    from cluster.profiler import Profiler

    tune(config.threads, config.malloc)
    profiler = Profiler.load(Path(config.folder), config.files)
    at = Address(config.bind, config.port)
    return addresses(serve_all(profiler.handle, _transports(config), at, config.workers, stack)), lambda: None


def _relay(config: RelayConfig, stack: contextlib.ExitStack, stop: StopSignal) -> tuple[Mapping[str, Address], Finish]:
    from cluster.links.control import Control
    from cluster.links.link import Link
    from cluster.links.relay import Relay
    from cluster.node_server import addresses, serve_all

    one, other = config.hosts
    free = {ends: Link(*ends, both=False) for ends in ((one, other), (other, one))}
    relay = stack.enter_context(Relay(free, config.seed))
    control = Control(relay, config.bind, config.advertise or config.bind)
    at = Address(config.bind, config.port)
    return addresses(serve_all(control.handle, _transports(config), at, config.workers, stack)), lambda: None


def _model_server(
    config: ModelServerConfig, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Finish]:
    from cluster.model_servers.program import serve

    return serve(config, stack, stop)


def _ray(config: RayConfig, stack: contextlib.ExitStack, stop: StopSignal) -> tuple[Mapping[str, Address], Finish]:
    from cluster.runtimes.ray_head import serve

    return serve(config, stack, stop), lambda: None


def _tensorflow_server(
    config: TensorFlowServerConfig, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Finish]:
    from cluster.runtimes.tf_server import serve

    return serve(config, tune(config.threads, config.malloc)), lambda: None


def _socket_server(
    config: SocketServerConfig, stack: contextlib.ExitStack, stop: StopSignal
) -> tuple[Mapping[str, Address], Finish]:
    from cluster.runtimes.socket_server import serve

    tune(config.threads, config.malloc)
    return serve(config), lambda: None


PROGRAMS: Mapping[type[Config], Callable[[Any, contextlib.ExitStack, StopSignal], tuple[Mapping[str, Address], Finish]]]
PROGRAMS = {
    RegistryConfig: _registry,
    NodeConfig: _node,
    ProbeConfig: _probe,
    ProfilerConfig: _profiler,
    RelayConfig: _relay,
    ModelServerConfig: _model_server,
    RayConfig: _ray,
    TensorFlowServerConfig: _tensorflow_server,
    SocketServerConfig: _socket_server,
}
"""Kind of document -> the function that serves until the stack closes; it returns its addresses and a `Finish`."""


def _transports(
    config: RegistryConfig | NodeConfig | ProbeConfig | ProfilerConfig | RelayConfig,
) -> dict[str, Transport]:
    """The transports by name. Raises `UsageError` if one cannot be used, or must not bind `config.bind`."""
    made = {name: transports.make(name, config.options) for name in config.transports}
    for transport in made.values():
        transports.check_host(config.bind, transport.options, config.insecure)
    return made


def tune(threads: int, malloc: str) -> dict[str, int | str]:
    """Prepare this process for executing stages, before TensorFlow runs; returns the settings that are in force.

    `threads`: TensorFlow's threads within an operation, and between operations. 0 leaves the choice to TensorFlow,
    which takes one per core; but if a control group limits this process, 0 sets one per granted core, since TensorFlow
    ignores control groups.
    `malloc`: with `keep`, the C library keeps freed memory. With `default`, it returns every block of a tensor's size
    to the kernel and requests a new one for the next message, which costs a page fault for each page. Raises
    `PartitionError` for unusable settings of Keras.
    """
    keras_settings.check()
    setting = load_tensorflow().config.threading
    granted = control_group().cores
    threads = threads or (usable() if granted is not None else 0)
    if threads:
        setting.set_intra_op_parallelism_threads(threads)
        setting.set_inter_op_parallelism_threads(threads)
    return {
        "intra_op": setting.get_intra_op_parallelism_threads(),
        "inter_op": setting.get_inter_op_parallelism_threads(),
        "malloc": "keep" if malloc == "keep" and keep_memory() else "default",
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m cluster.process",
        description=__doc__,
        epilog=f"Fields of a document:\n{documents.teach()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", required=True, metavar="FILE|-", help="the JSON document; -: standard input")
    parser.add_argument("--until-eof", action="store_true", help="end when standard input closes")
    given = parser.parse_args(argv)
    if given.config == "-" and given.until_eof:
        parser.error("--until-eof: reading the document from standard input ends the input; give a FILE")
    try:
        config = documents.parse(sys.stdin.read() if given.config == "-" else Path(given.config).read_bytes())
    except (OSError, UsageError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return run(config, lambda addresses: print(ready_line(addresses), flush=True), given.until_eof)


if __name__ == "__main__":
    sys.exit(main())
