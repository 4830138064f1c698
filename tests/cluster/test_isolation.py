"""Who does not answer holds up nobody else (flow `forward`): real nodes and sockets, one of which is silent."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import transports
from cluster.pinning import usable
from tests.cluster.hosts import Nodes, send, silent
from tests.cluster.plans import chain, partition
from transports.address import Address

NEAR = replace(partition(chain(1), [0]), name="near")
FAR = replace(partition(chain(2), [0, 1]), name="far")
INPUTS = {"x": np.ones((1, 2), np.float32)}
STAGES = {name: lambda inputs, _: [inputs[0] + 1] for name in ("a0", "a1")}
PATIENT, BRIEF = 40.0, 10.0
"""Seconds that requests have which nobody takes, and those that have to be answered meanwhile."""


def stopped_client(nodes: Nodes, address: Address) -> None:
    """Requests of a client whose receiver is at `address`."""
    dispatcher = nodes.dispatcher()
    for _ in range(usable()):
        request = nodes.request(NEAR, PATIENT, reply_to=str(address))
        assert [reply.method for reply in send(dispatcher, request, NEAR, INPUTS)] == ["accepted"]


def stopped_server(nodes: Nodes, address: Address) -> None:
    """Requests of a client that is there, for the next server, which is at `address`."""
    nodes.pretend(address, 1)
    dispatcher, receiver = nodes.dispatcher(), nodes.receiver()
    for _ in range(usable()):
        with receiver.expect(nodes.request(FAR, PATIENT), FAR.plan.outputs) as awaited:
            assert [reply.method for reply in send(dispatcher, awaited.request, FAR, INPUTS)] == ["accepted"]


WIRES = [name for name in transports.NAMES if transports.kind(name).addressing != "in-process"]


@pytest.mark.parametrize("stopped", [stopped_client, stopped_server])
@pytest.mark.parametrize(
    "transport", [name for name in transports.NAMES if transports.kind(name).addressing != "in-process"]
)
def test_who_is_stopped_holds_up_no_client(transport: str, stopped: Callable[[Nodes, Address], None]) -> None:
    with Nodes(2, STAGES, NEAR, FAR, transport=transport) as nodes, silent() as address:
        nodes.start()
        stopped(nodes, address)
        answer = nodes.client().infer(NEAR, nodes.route(NEAR), INPUTS, BRIEF)
        assert (answer.outputs["a0"] == 2).all()
