"""A node that is told to end: what is under way finishes, what is new is refused. Real nodes behind real sockets."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cluster.client import Client
from cluster.errors import Draining, NoServer
from cluster.flows import FLOWS
from cluster.node_server import NodeServer
from cluster.partition import Partition
from cluster.request import Route
from tests.cluster.hosts import Nodes, send, silent
from tests.cluster.plans import chain, partition
from tests.lateness import in_time
from transports.errors import DeadlineExceeded

INPUTS = {"x": np.ones((1_000_000, 2), np.float32)}
"""8 MB, so that an answer takes its time to get out."""
SMALL = {"x": np.ones((1, 2), np.float32)}


class Gate:
    """A stage that says when it begins and goes on when it is let."""

    def __init__(self) -> None:
        self.begun, self.open = threading.Event(), threading.Event()

    def __call__(self, inputs: Sequence[Any], timeout: float) -> list[Any]:
        self.begun.set()
        assert self.open.wait(20)
        return [inputs[0] + 1]


@pytest.mark.parametrize("flow", FLOWS)
def test_what_is_under_way_finishes_and_what_is_new_is_refused(flow: str) -> None:
    cut, gate = partition(chain(2), [0, 1]), Gate()
    with (
        Nodes(2, {"a0": lambda inputs, _: [inputs[0] * 2], "a1": gate}, cut) as nodes,
        ThreadPoolExecutor(2) as threads,
    ):
        (_, last), client, route = [nodes.start(), nodes.start()], nodes.client(), nodes.route(cut, flow)
        under_way = threads.submit(client.infer, cut, route, INPUTS, 20.0)
        assert gate.begun.wait(20)
        ending = threads.submit(_end, last)
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


def _end(host: NodeServer) -> None:
    host.finish(20.0)
    host.close()


def test_who_asks_the_registry_is_not_sent_there_any_more() -> None:
    cut = partition(chain(2), [0, 1])
    with Nodes(2, {"a0": lambda inputs, _: [inputs[0]], "a1": lambda inputs, _: [inputs[0]]}, cut) as nodes:
        _, last = nodes.start(), nodes.start()
        last.finish(20.0)
        with pytest.raises(NoServer, match="no server holds stage 'a1' \\(server 1\\), which awaits tensor 'a0'"):
            nodes.client().infer(cut, nodes.route(cut, "nested"), INPUTS, 20.0)


def test_a_node_that_is_idle_ends_at_once() -> None:
    cut = partition(chain(1), [0])
    with Nodes(1, {"a0": lambda inputs, _: [inputs[0]]}, cut) as nodes:
        host = nodes.start()
        with in_time(10):
            host.finish(20.0)


def test_a_client_is_told_of_the_end_whoever_else_takes_no_word() -> None:
    """Its request lies behind those of a client that is stopped, of which two are being executed."""
    cut, gate = partition(chain(1), [0]), Gate()
    with Nodes(1, {"a0": gate}, cut) as nodes, silent() as nowhere, ThreadPoolExecutor(1) as threads:
        host, dispatcher, receiver = nodes.start(), nodes.dispatcher(), nodes.receiver()
        for _ in range(12):
            send(dispatcher, nodes.request(cut, 20.0, reply_to=str(nowhere)), cut, SMALL)
        with receiver.expect(nodes.request(cut, 5.0), cut.plan.outputs) as awaited:
            send(dispatcher, awaited.request, cut, SMALL)
            ending = threads.submit(host.close)
            with pytest.raises(Draining, match="before it executed this request"):
                awaited.outputs()
        gate.open.set()
        ending.result()
