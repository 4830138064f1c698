"""Packed tensors over every transport and flow: the outputs, the statistics, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from cluster.flows import FLOWS
from cluster.packing import pack, unpack
from cluster.partition import Partition
from cluster.registry import parse_holders
from cluster.request import NO_STATS, Request, RequestStats, Route
from tests.cluster.conftest import Case, Running, assert_right
from tests.faults.common import REMOTE
from transports import packing
from transports.base import Message
from transports.errors import MalformedMessage, MessageTooLarge

LOSSLESS = ("lz4", "zstd", "blosc2")
MODEL = "multi-output"
SPLIT = f"{MODEL}.layer.round-robin"


@pytest.fixture
def partition(partitions: Mapping[str, Partition]) -> Partition:
    return partitions[SPLIT]


@pytest.fixture
def case(cases: Mapping[str, Case]) -> Case:
    return cases[MODEL]


def route_to(partition: Partition, transport: str, **settings: Any) -> Route:
    return Route(partition.name, partition.engines[0], transport, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("transport", REMOTE)
@pytest.mark.parametrize("wire", LOSSLESS)
def test_a_lossless_wire_gives_the_same_bits(
    running: Running, partition: Partition, case: Case, transport: str, flow: str, wire: str
) -> None:
    plain, packed = (route_to(partition, transport, flow=flow, wire=kind) for kind in (packing.OFF, wire))
    inputs = {name: np.repeat(array, 32, axis=0) for name, array in case.inputs[0].items()}  # these shrink
    right = running.client.infer(partition, plain, inputs, timeout=20.0)
    found = running.client.infer(partition, packed, inputs, timeout=20.0)
    assert {name: array.tobytes() for name, array in found.outputs.items()} == {
        name: array.tobytes() for name, array in right.outputs.items()
    }
    assert (found.stats.messages, found.stats.payload) == (right.stats.messages, right.stats.payload)
    assert found.stats.raw == found.stats.payload
    assert 0 < found.stats.packed < found.stats.payload / 2
    assert found.stats.pack > 0
    assert found.stats.unpack > 0
    assert (right.stats.pack, right.stats.unpack, right.stats.raw, right.stats.packed) == (0, 0, 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("send", ["bundle", "tensor"])
@pytest.mark.parametrize("flow", FLOWS)
def test_half_precision_halves_every_byte_of_every_flow(
    running: Running, partition: Partition, case: Case, flow: str, send: str
) -> None:
    """All of this model's tensors are float32, so the exact count shows that each of them was packed."""
    route = route_to(partition, "tcp", flow=flow, wire="f16", send=send)
    answer = running.client.infer(partition, route, case.inputs[0], timeout=20.0)
    assert answer.stats.packed * 2 == answer.stats.raw == answer.stats.payload
    for name, array in case.expected[0].items():
        assert answer.outputs[name].dtype == array.dtype
        np.testing.assert_allclose(answer.outputs[name], array, atol=0.02, rtol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("wire", [*LOSSLESS, "f16", "bf16", "int8", "zfp:0.001", "jpeg:90"])
def test_a_batch_of_nothing_is_answered(
    running: Running, partition: Partition, case: Case, flow: str, wire: str
) -> None:
    inputs, expected = (
        {name: array[:0] for name, array in draw.items()} for draw in (case.inputs[0], case.expected[0])
    )
    route = route_to(partition, "tcp", flow=flow, wire=wire)
    assert_right(running.client.infer(partition, route, inputs, timeout=20.0).outputs, expected)


@pytest.mark.slow
@pytest.mark.parametrize("flow", FLOWS)
def test_a_tensor_that_a_packing_cannot_hold_is_named_in_every_flow(
    running: Running, partition: Partition, case: Case, flow: str
) -> None:
    inputs = {name: np.full_like(array, np.nan) for name, array in case.inputs[0].items()}
    with pytest.raises(MalformedMessage, match=r"--wire int8: tensor '.*': it has values that are not finite"):
        running.client.infer(partition, route_to(partition, "tcp", flow=flow, wire="int8"), inputs, timeout=20.0)


@pytest.mark.slow
def test_a_node_refuses_what_it_cannot_unpack_and_goes_on(running: Running, partition: Partition, case: Case) -> None:
    name, array = next(iter(case.inputs[0].items()))
    with running.transports["tcp"].connect(running.cluster.registries["tcp"]) as registry:
        question = {"partition": partition.name, "tensor": name, "transport": "tcp"}
        found = parse_holders(str(registry.call(Message("where", question), 20.0).fields["servers"]))
    holder = next(iter(found.values()))[0]
    claims = (
        ("zstd", {"packing": f'{{"{name}":["float32",{list(array.shape)}]}}'}, "its bytes are none that zstd"),
        ("zstd", {"packing": f'{{"{name}":["float32",[4000000000]]}}'}, "above the limit of"),
        ("zip", {}, "this process cannot unpack: --wire: no packing 'zip'"),
        ("zfp:nan", {}, "this process cannot unpack: --wire zfp:nan"),
    )
    with running.transports["tcp"].connect(holder.address) as node:
        for wire, fields, text in claims:
            request = Request("mine", route_to(partition, "tcp", wire=wire), deadline=time.monotonic() + 9.0)
            sent = request.fields() | fields | {"epoch": holder.epoch}
            with pytest.raises((MalformedMessage, MessageTooLarge), match=text):
                node.call(Message("infer", sent, {name: np.arange(40, dtype=np.uint8)}), 20.0)
    route = route_to(partition, "tcp", wire="zstd")
    assert_right(running.client.infer(partition, route, case.inputs[0], timeout=20.0).outputs, case.expected[0])


def test_nothing_is_packed_near_or_without_a_packing() -> None:
    fields: dict[str, Any] = {}
    tensors, route = {"x": np.zeros(100, np.float32)}, Route("layer", "eager", "tcp")
    assert pack(tensors, Route("layer", "eager", "tcp", wire="zstd"), fields, near=True) == (tensors, NO_STATS)
    assert fields == {"near": True}
    message = Message("infer", {}, tensors)
    assert unpack(message, route, {}) == (message, NO_STATS)
    assert "wire" not in str(Request("mine", route, deadline=1e9).fields()["route"])


def test_statistics_travel_in_messages() -> None:
    stats = RequestStats(1, 20, 3, 4, 0.5, 0.25, 0.1, 0.2, 9, 7)
    assert RequestStats.of(Message("outputs", stats.fields())) == stats
