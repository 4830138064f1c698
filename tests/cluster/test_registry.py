"""The registry: portions, fan-out lists, and what it refuses."""

from __future__ import annotations

import pytest

from cluster.errors import NoPortion
from cluster.registry import Registry, parse_servers
from transports.base import Address, Message
from transports.errors import MalformedMessage

A, B, C = (Address("127.0.0.1", port) for port in (7001, 7002, 7003))


def test_servers_are_given_the_portions_in_turn() -> None:
    registry = Registry(2)
    assert [registry.register({"grpc": A}), registry.register({"grpc": B})] == [0, 1]
    with pytest.raises(NoPortion, match="all 2 portions"):
        registry.register({"grpc": C})


def test_a_tensor_is_awaited_by_a_list_of_servers() -> None:
    registry = Registry(3)
    for address in (A, B, C):
        registry.register({"grpc": address, "rpyc": Address(address.host, address.port + 100)})
    registry.report(1, "layer", ["skip", "x"])
    registry.report(2, "layer", ["skip"])
    assert registry.where("layer", "skip", "grpc") == {1: B, 2: C}
    assert registry.where("layer", "skip", "rpyc") == {1: Address("127.0.0.1", 7102), 2: Address("127.0.0.1", 7103)}
    assert registry.where("layer", "x", "grpc") == {1: B}


@pytest.mark.parametrize(
    ("partition", "tensor", "transport"), [("other", "x", "grpc"), ("layer", "y", "grpc"), ("layer", "x", "rpyc")]
)
def test_nobody_is_an_empty_list(partition: str, tensor: str, transport: str) -> None:
    registry = Registry(1)
    registry.register({"grpc": A})
    registry.report(0, "layer", ["x"])
    assert registry.where(partition, tensor, transport) == {}


def test_a_server_without_a_portion_cannot_report() -> None:
    with pytest.raises(NoPortion, match="register first"):
        Registry(2).report(1, "layer", ["x"])


def test_the_protocol_over_messages() -> None:
    handle = Registry(2).handle
    for address in (A, B):
        assert "server" in handle(Message("register", {"transport.grpc": str(address)})).fields
    for server in (0, 1):
        handle(Message("report", {"server": server, "partition": "p", "tensors": "x\ny"}))
    reply = handle(Message("where", {"partition": "p", "tensor": "y", "transport": "grpc"}))
    assert parse_servers(str(reply.fields["servers"])) == {0: A, 1: B}


def test_an_unknown_method_is_refused_by_name() -> None:
    with pytest.raises(MalformedMessage, match="'drop'"):
        Registry(1).handle(Message("drop"))
