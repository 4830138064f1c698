"""A node that ends: it finishes the requests in flight and refuses new ones. Real nodes and sockets."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from cluster.client import Client
from cluster.errors import Draining, NoServer
from cluster.flows import FLOWS
from cluster.node_server import NodeServer
from cluster.partition import Partition
from cluster.request import Route
from tests.cluster.hosts import Gate, Nodes, send, silent
from tests.cluster.plans import chain, placed
from tests.lateness import in_time
from transports.errors import DeadlineExceeded

INPUTS = {"x": np.ones((1_000_000, 2), np.float32)}
"""8 MB, so that sending an answer takes some time."""
SMALL = {"x": np.ones((1, 2), np.float32)}


@pytest.mark.parametrize("flow", FLOWS)
def test_requests_in_flight_finish_and_new_ones_are_refused(flow: str) -> None:
    partition, gate = placed(chain(2), [0, 1]), Gate()
    with (
        Nodes(2, {"a0": lambda inputs, _: [inputs[0] * 2], "a1": gate}, partition) as nodes,
        ThreadPoolExecutor(2) as threads,
    ):
        nodes.start()
        last, client, route = nodes.start(), nodes.client(), nodes.route(partition, flow)
        in_flight = threads.submit(client.infer, partition, route, INPUTS, 20.0)
        gate.await_begun()
        ending = threads.submit(_end, last)
        with pytest.raises(Draining):
            _infer_until_it_drains(client, partition, route)
        assert not ending.done()
        gate.open.set()
        assert (in_flight.result().outputs["a1"] == 3).all()
        ending.result()


def _infer_until_it_drains(client: Client, partition: Partition, route: Route) -> None:
    while True:
        with contextlib.suppress(DeadlineExceeded):  # an accepted request waits behind the gate
            client.infer(partition, route, INPUTS, 1.0)


def _end(node: NodeServer) -> None:
    node.finish(20.0)
    node.close()


def test_the_registry_no_longer_names_a_node_that_has_finished() -> None:
    partition = placed(chain(2), [0, 1])
    with Nodes(2, {"a0": lambda inputs, _: [inputs[0]], "a1": lambda inputs, _: [inputs[0]]}, partition) as nodes:
        _, last = nodes.start(), nodes.start()
        last.finish(20.0)
        with pytest.raises(NoServer, match="no server holds stage 'a1' \\(server 1\\), which awaits tensor 'a0'"):
            nodes.client().infer(partition, nodes.route(partition, "nested"), INPUTS, 20.0)


def test_an_idle_node_ends_at_once() -> None:
    partition = placed(chain(1), [0])
    with Nodes(1, {"a0": lambda inputs, _: [inputs[0]]}, partition) as nodes:
        node = nodes.start()
        with in_time(10):
            node.finish(20.0)


def test_a_client_is_notified_of_the_end_even_if_another_client_does_not_answer() -> None:
    """The client's request waits behind requests of a stopped client, some of which are being executed."""
    partition, gate = placed(chain(1), [0]), Gate()
    with Nodes(1, {"a0": gate}, partition) as nodes, silent() as nowhere, ThreadPoolExecutor(1) as threads:
        node, dispatcher, receiver = nodes.start(), nodes.dispatcher(), nodes.receiver()
        for _ in range(12):
            send(dispatcher, nodes.request(partition, 20.0, reply_to=str(nowhere)), partition, SMALL)
        with receiver.expect(nodes.request(partition, 5.0), partition.plan.outputs) as awaited:
            send(dispatcher, awaited.request, partition, SMALL)
            ending = threads.submit(node.close)
            with pytest.raises(Draining, match="before it executed this request"):
                awaited.outputs()
        gate.open.set()
        ending.result()
