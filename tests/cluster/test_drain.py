"""A node that is told to end: what is under way finishes, what is new is refused. Real nodes behind real sockets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import transports
from cluster.client import Client
from cluster.courier import Courier
from cluster.errors import Draining, NoServer
from cluster.flows import FLOWS
from cluster.host import Host, addresses, serve_all
from cluster.leases import Leases
from cluster.mailbox import Mailbox
from cluster.node import Portion
from cluster.partition import Partition
from cluster.registry import Registry
from cluster.route import Route
from tests.cluster.plans import chain, partition
from tests.lateness import in_time
from transports.base import Address
from transports.errors import DeadlineExceeded

INPUTS = {"x": np.ones((1_000_000, 2), np.float32)}
"""8 MB, so that an answer takes its time to get out."""
EPHEMERAL = Address("127.0.0.1", 0)


class Gate:
    """A stage that says when it begins and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, inputs: Sequence[Any], timeout: float) -> list[Any]:
        self.begun.set()
        assert self.open.wait(20)
        return [inputs[0] + 1]


@pytest.fixture
def build() -> Iterator[Callable[[Partition, Mapping[str, Any]], tuple[list[Host], Client]]]:
    """Hosts for every server of a partition whose stages are given, and a client."""
    with contextlib.ExitStack() as stack:

        def make(cut: Partition, stages: Mapping[str, Any]) -> tuple[list[Host], Client]:
            carriers = {"grpc": transports.make("grpc")}
            registries = addresses(serve_all(Registry(Leases(cut.servers)).handle, carriers, EPHEMERAL, 8, stack))
            load = lambda server: {(cut.name, "eager"): Portion(cut, server, stages, np.asarray)}  # noqa: E731
            hosts = [Host(carriers, registries, load) for _ in range(cut.servers)]
            for host in hosts:
                stack.callback(host.close)
            courier = stack.enter_context(contextlib.closing(Courier(carriers, registries)))
            return hosts, Client(courier, stack.enter_context(contextlib.closing(Mailbox(carriers))))

        yield make


@pytest.mark.parametrize("flow", FLOWS)
def test_what_is_under_way_finishes_and_what_is_new_is_refused(
    build: Callable[..., tuple[list[Host], Client]], flow: str
) -> None:
    cut, gate = partition(chain(2), [0, 1]), Gate()
    hosts, client = build(cut, {"a0": lambda inputs, _: [inputs[0] * 2], "a1": gate})
    route = Route(cut.name, "eager", "grpc", flow=flow)
    with ThreadPoolExecutor(2) as threads:
        under_way = threads.submit(client.infer, cut, route, INPUTS, 20.0)
        assert gate.begun.wait(20)
        ending = threads.submit(_end, hosts[1])
        with pytest.raises(Draining):
            _ask_until_it_drains(client, cut, route)
        assert not ending.done()
        gate.open.set()
        assert (under_way.result().outputs["a1"] == 3).all()
        ending.result()


def _ask_until_it_drains(client: Client, cut: Partition, route: Route) -> None:
    while True:
        with contextlib.suppress(DeadlineExceeded):  # it was begun, and is stuck behind the gate
            client.infer(cut, route, INPUTS, 1.0)


def _end(host: Host) -> None:
    host.finish(20.0)
    host.close()


def test_who_asks_the_registry_is_not_sent_there_any_more(build: Callable[..., tuple[list[Host], Client]]) -> None:
    cut = partition(chain(2), [0, 1])
    hosts, client = build(cut, {"a0": lambda inputs, _: [inputs[0]], "a1": lambda inputs, _: [inputs[0]]})
    hosts[1].finish(20.0)
    with pytest.raises(NoServer, match="nobody holds stage 'a1' \\(server 1\\), which awaits tensor 'a0'"):
        client.infer(cut, Route(cut.name, "eager", "grpc"), INPUTS, 20.0)


def test_a_node_that_is_idle_ends_at_once(build: Callable[..., tuple[list[Host], Client]]) -> None:
    cut = partition(chain(1), [0])
    hosts, _ = build(cut, {"a0": lambda inputs, _: [inputs[0]]})
    with in_time(10):
        hosts[0].finish(20.0)
