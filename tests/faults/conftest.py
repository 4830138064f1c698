"""Clusters of real processes, with or without a proxy in front of every node."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import pytest

import transports
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher
from cluster.partition import Partition, export
from cluster.registry import PREFIX
from cluster.request import Request, RequestStats, Route
from cluster.result_receiver import ResultReceiver
from partitioning.placement import PLACEMENTS
from partitioning.program import read
from partitioning.strategies import make_plan
from tests.faults.common import PATIENCE, REMOTE
from tests.faults.proxy import Proxy
from tests.models import SHAPES, flat_outputs, inputs_for
from transports.address import Address
from transports.base import Array, Message, Transport
from transports.pool import Pool

SERVERS = 2
PARTS = {"sequential": ("submodel", "contiguous"), "fork-join": ("layer", "round-robin")}
"""Model -> mode and placement: a chain over the two servers, and a graph whose joins await inputs from both."""


@dataclass(frozen=True)
class Work:
    """A partition with inputs, and the model's outputs for them."""

    partition: Partition
    inputs: Mapping[str, Array]
    expected: Mapping[str, Array]

    def route(self, transport: str, flow: str = "nested") -> Route:
        return Route(self.partition.name, "frozen", transport, flow=flow)

    def done_by(self, client: Client, transport: str, flow: str, timeout: float = PATIENCE) -> None:
        """Send a request over `transport` in `flow`, and compare the outputs."""
        found = client.infer(self.partition, self.route(transport, flow), self.inputs, timeout).outputs
        assert set(found) == set(self.expected)
        for name, array in self.expected.items():
            assert np.allclose(found[name], array, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="session")
def works(exports: Path) -> Mapping[str, Work]:
    """The work for each model, by name."""
    return {name: _work(name, exports) for name in PARTS}


def _work(name: str, folder: Path) -> Work:
    model, (mode, placement) = SHAPES[name](), PARTS[name]
    program = read(model)
    plan = make_plan(program.graph, mode, "equal", SERVERS)
    partition = Partition(name, plan, PLACEMENTS[placement](plan, SERVERS), ("frozen",))
    export(program, partition, folder)
    inputs = inputs_for(model)
    outputs = flat_outputs(model, inputs)
    return Work(
        partition,
        dict(zip(program.graph.inputs, inputs, strict=True)),
        dict(zip(program.graph.outputs, outputs, strict=True)),
    )


class ProxiedLauncher(LocalLauncher):
    """Starts a server before the registry that replaces the address of each registering node by a proxy's address."""

    def __init__(self, transports: Mapping[str, Transport]) -> None:
        super().__init__()
        self._transports = transports
        self._stack = contextlib.ExitStack()
        self._proxies: dict[tuple[str, str], Proxy] = {}
        self.proxied = True
        """Whether `addresses` puts such a server in front of the registry."""
        self.proxies: dict[tuple[int, str], Proxy] = {}
        """The proxies by portion and transport."""

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._stack.close()

    def addresses(self, name: str) -> Mapping[str, Address]:
        found = super().addresses(name)
        if name != "registry" or not self.proxied:
            return found
        return {transport: self._front(transport, address) for transport, address in found.items()}

    def _front(self, name: str, registry: Address) -> Address:
        """The address of a new server in front of `registry`, over the transport `name`."""
        transport = self._transports[name]
        pool = self._stack.enter_context(Pool(transport))

        def forward(message: Message) -> Message:
            reply, _ = pool.call(registry, msgspec.structs.replace(message, fields=self._proxied(message)), PATIENCE)
            if message.method == "register":
                found = {
                    key: self._proxy(key, str(text)) for key, text in message.fields.items() if key.startswith(PREFIX)
                }
                server = int(reply.fields["server"])
                self.proxies |= {(server, key.removeprefix(PREFIX)): proxy for key, proxy in found.items()}
            return reply

        return self._stack.enter_context(transport.serve(forward, "127.0.0.1", 0, 16)).address

    def _proxied(self, message: Message) -> dict[str, transports.base.Scalar]:
        """The fields of `message` with the proxies' addresses in place of the servers' own."""
        return {
            key: str(self._proxy(key, str(value)).address) if key.startswith(PREFIX) else value
            for key, value in message.fields.items()
        }

    def _proxy(self, key: str, address: str) -> Proxy:
        """The proxy in front of the node that registered `address` under `key`."""
        if (key, address) not in self._proxies:
            addressing = transports.kind(key.removeprefix(PREFIX)).addressing
            proxy = Proxy(Address.parse(address), addressing)
            self._proxies[key, address] = self._stack.enter_context(proxy)
        return self._proxies[key, address]


@dataclass(frozen=True)
class Running:
    """A cluster, its launcher, and the transports of its clients."""

    cluster: Cluster
    launcher: ProxiedLauncher
    transports: Mapping[str, Transport]

    @contextlib.contextmanager
    def client(self) -> Iterator[Client]:
        with self.dispatcher() as dispatcher, contextlib.closing(ResultReceiver(self.transports)) as receiver:
            yield Client(dispatcher, receiver)

    @contextlib.contextmanager
    def dispatcher(self) -> Iterator[Dispatcher]:
        with contextlib.closing(Dispatcher(self.transports, self.cluster.registries)) as dispatcher:
            yield dispatcher


def send(dispatcher: Dispatcher, request: Request, partition: Partition, tensors: Mapping[str, Array]) -> list[Message]:
    """Send `tensors`, as another server would, to the servers that await them, and return the answers.

    The messages carry the deadline of `request`, but this deadline does not bound the sending. Raises a `WireError`.
    """
    patient = msgspec.structs.replace(request, deadline=time.monotonic() + PATIENCE)
    fields = request.fields() | RequestStats().fields()
    return [
        dispatcher.call(
            patient,
            delivery.holder.address,
            Message("infer", fields | {"epoch": delivery.holder.epoch}, delivery.tensors),
        )[0]
        for delivery, _ in dispatcher.directory.deliveries(patient, partition, tensors)
    ]


@pytest.fixture(scope="session")
def launcher() -> Iterator[ProxiedLauncher]:
    with ProxiedLauncher({name: transports.make(name) for name in REMOTE}) as launcher:
        yield launcher


def started(launcher: ProxiedLauncher, exports: Path, proxied: bool) -> Iterator[Running]:
    """A cluster in the launcher that all test modules share, since loading TensorFlow takes seconds."""
    launcher.proxied = proxied
    settings = Settings(transports=REMOTE, servers=SERVERS, exports=exports, workers=32, threads=1)
    with Cluster(settings, launcher) as cluster:
        yield Running(cluster, launcher, {name: transports.make(name) for name in REMOTE})


@pytest.fixture(scope="module")
def proxied(launcher: ProxiedLauncher, works: Mapping[str, Work], exports: Path) -> Iterator[Running]:
    """A cluster with a proxy in front of every node."""
    yield from started(launcher, exports, proxied=True)


@pytest.fixture(scope="module")
def unproxied(launcher: ProxiedLauncher, works: Mapping[str, Work], exports: Path) -> Iterator[Running]:
    """A cluster without proxies."""
    yield from started(launcher, exports, proxied=False)
