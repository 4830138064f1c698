"""Every transport, strategy, placement and flow gives what the local model gives, for every shape of graph.

The tables come from the registries of names: a new transport, placement or flow is tested by existing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

import transports
from cluster.client import Client
from cluster.courier import Courier
from cluster.flows import FLOWS
from cluster.mailbox import Mailbox
from cluster.partition import Partition
from cluster.route import Route
from partitioning.placement import PLACEMENTS
from tests.cluster.conftest import MODES, WIRES, Bench, Case, assert_right
from tests.models import SHAPES

pytestmark = pytest.mark.slow

MOST_HOPS = ("layer", "round-robin")
CARRIED = [
    (name, codec, mode, placement)
    for name in transports.NAMES
    for codec in transports.load(name).codecs
    for mode in MODES
    for placement in PLACEMENTS
    if codec == transports.load(name).codecs[0] or (mode, placement) == MOST_HOPS
]
"""Every transport with its own codec in every mode and placement. Of its other codecs no more than the one where most
messages are sent: what a codec writes hangs on a tensor (`tests/transports`), and not on where a model is cut."""
DOCUMENT = {"registry": "per-hop", "connections": "per-hop", "send": "tensor"}
SWITCHES: Mapping[str, Mapping[str, object]] = {
    "tuned": {},
    "document": DOCUMENT,
    "every hop over the wire": {"local_calls": False},
}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize(("transport", "codec", "mode", "placement"), CARRIED)
def test_equals_the_local_model(
    bench: Bench,
    direct: Callable[[str], Client],
    cases: Mapping[str, Case],
    partitions: Mapping[str, Partition],
    transport: str,
    codec: str,
    model: str,
    mode: str,
    placement: str,
    flow: str,
) -> None:
    partition = partitions[f"{model}.{mode}.{placement}"]
    client = direct(model) if transport == "none" else bench.client
    for number, switches in enumerate(SWITCHES.values()):
        route = Route(partition.name, partition.engines[0], transport, codec, flow, **switches)  # type: ignore[arg-type]
        variant = number % len(cases[model].inputs)
        answer = client.infer(partition, route, cases[model].inputs[variant], timeout=20.0)
        assert_right(answer.outputs, cases[model].expected[variant])


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("transport", WIRES)
def test_requests_of_several_clients_never_mix(
    bench: Bench, cases: Mapping[str, Case], partitions: Mapping[str, Partition], transport: str, flow: str
) -> None:
    partition, case = partitions["multi-input.layer.round-robin"], cases["multi-input"]
    route = Route(partition.name, "eager", transport, flow=flow)

    def client(number: int) -> None:
        courier, mailbox = Courier(bench.carriers, bench.registries), Mailbox(bench.carriers)
        with contextlib.closing(courier), contextlib.closing(mailbox):
            own = Client(courier, mailbox)
            for turn in range(10):
                variant = (number + turn) % 2
                answer = own.infer(partition, route, case.inputs[variant], timeout=20.0)
                assert_right(answer.outputs, case.expected[variant])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))


@pytest.mark.parametrize("transport", ["none", *WIRES])
def test_what_a_request_costs_is_counted(
    bench: Bench,
    direct: Callable[[str], Client],
    cases: Mapping[str, Case],
    partitions: Mapping[str, Partition],
    transport: str,
) -> None:
    partition, case = partitions["sequential.layer.round-robin"], cases["sequential"]
    client = direct("sequential") if transport == "none" else bench.client
    hops = len(partition.plan.stages)
    sizes = [array.nbytes for array in case.inputs[0].values()]
    sizes += [2 * wire.nbytes for wire in partition.plan.wires.values() if wire.consumers and wire.producer]
    answers = hops * sum(array.nbytes for array in case.expected[0].values())

    route = Route(partition.name, "eager", transport, **DOCUMENT)
    tally = client.infer(partition, route, case.inputs[0], timeout=20.0).tally
    assert (tally.messages, tally.lookups, tally.connects) == (hops, hops, 2 * hops)
    assert tally.payload == sum(sizes) + answers
    assert tally.compute > 0

    kept = Route(partition.name, "eager", transport)
    client.infer(partition, kept, case.inputs[0], timeout=20.0)
    again = client.infer(partition, kept, case.inputs[0], timeout=20.0).tally
    assert (again.messages, again.lookups, again.connects) == (hops, 0, 0)
