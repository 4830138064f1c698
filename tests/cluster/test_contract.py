"""Every transport, strategy, placement and flow gives the outputs of the local model, for every shape of graph.

The cases come from the tables of the packages, so a new transport, placement or flow is tested without a new test.
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pytest

import transports
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.flows import FLOWS
from cluster.partition import Partition
from cluster.registry import parse_holders
from cluster.request import Route
from cluster.result_receiver import ResultReceiver
from partitioning.engine_table import EMPTY
from tests.cluster.conftest import ONCE, SPLITS, Case, Running, assert_right, splits_of
from tests.faults.common import REMOTE
from tests.models import SHAPES
from tests.transports.conftest import dialled
from transports.base import Message

pytestmark = pytest.mark.slow

OTHER_CODECS = [(name, codec) for name in transports.NAMES for codec in transports.load(name).codecs[1:]]
DOCUMENT = {"registry": "per-hop", "connections": "per-hop", "send": "tensor"}
SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "tuned": {},
    "document": DOCUMENT,
    "every hop over the wire": {"local_calls": False},
}


@dataclass(frozen=True)
class Rig:
    """All clusters, models and partitions."""

    running: Running
    direct: Callable[[str], Client]
    cases: Mapping[str, Case]
    partitions: Mapping[str, Partition]

    def assert_right(self, name: str, route: Callable[[Partition], Route], variant: int, batch: int = 2) -> None:
        """Assert that the partition `name` gives the outputs of the local model for input number `variant`.

        `batch`: how many items of the input are sent."""
        model, partition = name.partition(".")[0], self.partitions[name]
        made = route(partition)
        client = self.direct(model) if made.transport == "none" else self.running.client
        case = self.cases[model]
        inputs, expected = (
            {tensor: array[:batch] for tensor, array in draws[variant % len(draws)].items()}
            for draws in (case.inputs, case.expected)
        )
        assert_right(client.infer(partition, made, inputs, timeout=20.0).outputs, expected)


@pytest.fixture
def rig(
    running: Running,
    direct: Callable[[str], Client],
    cases: Mapping[str, Case],
    partitions: Mapping[str, Partition],
) -> Rig:
    return Rig(running, direct, cases, partitions)


COMBINED = [
    (sum(places) // 2, *names)
    for (places, names) in (
        zip(*one, strict=True) for one in itertools.product(*map(enumerate, (transports.NAMES, SHAPES, SPLITS, FLOWS)))
    )
    if sum(places) % 2 == 0
]
"""Turn, transport, shape, split and flow: half of all combinations, among them every combination of three values."""


@pytest.mark.parametrize(
    ("turn", "transport", "model", "split", "flow"),
    COMBINED,
    ids=["-".join((transport, model, *split, flow)) for _, transport, model, split, flow in COMBINED],
)
def test_equals_the_local_model(
    rig: Rig, turn: int, transport: str, model: str, split: tuple[str, str], flow: str
) -> None:
    """The switches take turns, so that every transport, shape, flow and split is tested with each switch."""
    codec = transports.load(transport).codecs[0]
    switches = list(SWITCHES.values())[turn % len(SWITCHES)]

    def route(partition: Partition) -> Route:
        return Route(partition.name, partition.engines[0], transport, codec, flow, **switches)

    rig.assert_right(".".join((model, *split)), route, turn)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("model", ONCE)
@pytest.mark.parametrize("transport", transports.NAMES)
def test_more_models_over_every_transport_and_flow(rig: Rig, transport: str, model: str, flow: str) -> None:
    (split,) = splits_of(model)
    name = ".".join((model, *split))
    rig.assert_right(name, lambda partition: Route(name, partition.engines[0], transport, flow=flow), 0)


@pytest.mark.parametrize("split", ["whole.contiguous", "layer.round-robin", "submodel.round-robin"])
@pytest.mark.parametrize("model", SHAPES)
@pytest.mark.parametrize(("transport", "codec"), OTHER_CODECS)
def test_other_codecs_carry_the_same_tensors(rig: Rig, transport: str, codec: str, model: str, split: str) -> None:
    """A few splits are enough: the bytes of a codec depend on the tensors alone."""
    name = f"{model}.{split}"
    rig.assert_right(name, lambda partition: Route(name, partition.engines[0], transport, codec), 0)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize(("transport", "codec"), [(name, transports.load(name).codecs[0]) for name in transports.NAMES])
def test_a_batch_of_nothing_is_answered(rig: Rig, transport: str, codec: str, flow: str) -> None:
    name = "multi-output.layer.round-robin"  # TensorFlow's convolutions take no batch of 0
    rig.assert_right(name, lambda partition: Route(name, "eager", transport, codec, flow), 0, batch=0)


def test_the_shapes_include_the_difficult_edges(partitions: Mapping[str, Partition]) -> None:
    """An input that three servers await, a tensor that skips two servers, an output that other stages take."""
    found = set()
    for name in (f"{model}.submodel.contiguous" for model in SHAPES):
        plan, placement = partitions[name].plan, partitions[name].placement
        for tensor, edge in plan.edges.items():
            servers = {placement[stage] for stage in edge.consumers}
            made = placement[edge.producer] if edge.producer else None
            found |= {"fan-out"} if made is None and len(servers) >= 3 else set()
            found |= {"skip"} if made is not None and max(servers, default=0) - made > 2 else set()
            found |= {"middle"} if tensor in plan.outputs and servers else set()
    assert found == {"fan-out", "skip", "middle"}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("transport", REMOTE)
def test_requests_of_several_clients_never_mix(
    running: Running, cases: Mapping[str, Case], partitions: Mapping[str, Partition], transport: str, flow: str
) -> None:
    partition, case = partitions["multi-input.layer.round-robin"], cases["multi-input"]
    route = Route(partition.name, "eager", transport, flow=flow)

    def client(number: int) -> None:
        dispatcher, receiver = (
            Dispatcher(running.transports, running.cluster.registries),
            ResultReceiver(running.transports),
        )
        with contextlib.closing(dispatcher), contextlib.closing(receiver):
            own = Client(dispatcher, receiver)
            for turn in range(10):
                variant = (number + turn) % 2
                answer = own.infer(partition, route, case.inputs[variant], timeout=20.0)
                assert_right(answer.outputs, case.expected[variant])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(client, range(4)))


@pytest.mark.parametrize("transport", ["none", *REMOTE])
def test_the_costs_of_a_request_are_counted(
    running: Running,
    direct: Callable[[str], Client],
    cases: Mapping[str, Case],
    partitions: Mapping[str, Partition],
    transport: str,
) -> None:
    partition, case = partitions["sequential.layer.round-robin"], cases["sequential"]
    client = direct("sequential") if transport == "none" else running.client
    hops = len(partition.plan.stages)
    sizes = [array.nbytes for array in case.inputs[0].values()]
    sizes += [2 * edge.nbytes for edge in partition.plan.edges.values() if edge.consumers and edge.producer]
    answers = hops * sum(array.nbytes for array in case.expected[0].values())

    route = Route(partition.name, "eager", transport, **DOCUMENT)
    stats = client.infer(partition, route, case.inputs[0], timeout=20.0).stats
    assert (stats.messages, stats.lookups, stats.connects) == (hops, hops, 2 * hops)
    assert stats.payload == sum(sizes) + answers
    assert stats.compute > 0

    kept = Route(partition.name, "eager", transport)
    client.infer(partition, kept, case.inputs[0], timeout=20.0)
    again = client.infer(partition, kept, case.inputs[0], timeout=20.0).stats
    assert (again.messages, again.lookups, again.connects) == (hops, 0, 0)


@pytest.mark.parametrize("transport", REMOTE)
def test_random_bytes_on_a_port_stop_no_node(rig: Rig, transport: str) -> None:
    name = "sequential.layer.round-robin"
    with rig.running.transports[transport].connect(rig.running.cluster.registries[transport]) as registry:
        reply = registry.call(Message("who", {"partition": name, "transport": transport}), 20.0)
    nodes = [holder.address for held in parse_holders(str(reply.fields["servers"])).values() for holder in held]
    assert len(nodes) == rig.partitions[name].servers
    noise = random.Random(transport)
    for address in nodes:
        for size in (1, 16, 300, 5000):
            with dialled(transports.kind(transport), address) as peer, contextlib.suppress(ConnectionError):
                peer.sendall(noise.randbytes(size))
    rig.assert_right(name, lambda partition: Route(name, "eager", transport, transports.load(transport).codecs[0]), 0)


@pytest.mark.parametrize("transport", ["none", "tcp"])
def test_stages_that_compute_nothing_return_zeros_of_the_right_shapes(rig: Rig, transport: str) -> None:
    """Also from models whose tensors have open extents beside the batch, which are 1 then."""
    for name, partition in rig.partitions.items():
        model = name.partition(".")[0]
        client = rig.direct(model) if transport == "none" else rig.running.client
        case, edges = rig.cases[model], partition.plan.edges
        answer = client.infer(partition, Route(name, EMPTY, transport), case.inputs[0], timeout=20.0)
        for tensor, expected in case.expected[0].items():
            found, known = answer.outputs[tensor], None not in edges[tensor].shape[1:]
            assert (found.dtype, found.any(), found.ndim) == (expected.dtype, False, expected.ndim), name
            assert not found.flags.writeable
            assert not known or found.shape == expected.shape, name
