"""A peer that does not answer delays no other peer (flow `forward`). Real nodes and sockets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from cluster.pinning import usable
from tests.cluster.hosts import Nodes, send, silent
from tests.cluster.plans import chain, placed
from tests.faults.common import REMOTE
from transports.address import Address

NEAR = replace(placed(chain(1), [0]), name="near")
FAR = replace(placed(chain(2), [0, 1]), name="far")
INPUTS = {"x": np.ones((1, 2), np.float32)}
STAGES = {name: lambda inputs, _: [inputs[0] + 1] for name in ("a0", "a1")}
PATIENT, BRIEF = 40.0, 10.0
"""Deadlines in seconds: of requests that the silent peer does not answer, and of one that is answered meanwhile."""


def stopped_client(nodes: Nodes, address: Address) -> None:
    """Send requests of a client whose result receiver is at `address`."""
    dispatcher = nodes.dispatcher()
    for _ in range(usable()):
        request = nodes.request(NEAR, PATIENT, reply_to=str(address))
        assert [reply.method for reply in send(dispatcher, request, NEAR, INPUTS)] == ["accepted"]


def stopped_server(nodes: Nodes, address: Address) -> None:
    """Send requests that need server 1, which is at `address`."""
    nodes.pretend(address, 1)
    dispatcher, receiver = nodes.dispatcher(), nodes.receiver()
    for _ in range(usable()):
        with receiver.expect(nodes.request(FAR, PATIENT), FAR.plan.outputs) as awaited:
            assert [reply.method for reply in send(dispatcher, awaited.request, FAR, INPUTS)] == ["accepted"]


@pytest.mark.parametrize("stopped", [stopped_client, stopped_server])
@pytest.mark.parametrize("transport", REMOTE)
def test_a_silent_peer_delays_no_other_client(transport: str, stopped: Callable[[Nodes, Address], None]) -> None:
    with Nodes(2, STAGES, NEAR, FAR, transport=transport) as nodes, silent() as address:
        nodes.start()
        stopped(nodes, address)
        answer = nodes.client().infer(NEAR, nodes.route(NEAR), INPUTS, BRIEF)
        assert (answer.outputs["a0"] == 2).all()
