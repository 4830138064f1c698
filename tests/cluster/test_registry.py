"""The registry's protocol: messages, answers, refusals."""

from __future__ import annotations

import math

import pytest

from cluster.errors import NoPortion, StaleEpoch
from cluster.leases import Leases
from cluster.registry import Registry, parse_holders, parse_links
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage

A, B = (Address("127.0.0.1", port) for port in (7001, 7002))


def test_the_protocol_over_messages() -> None:
    handle = Registry(Leases(2, ttl=7.0)).handle
    epochs = []
    for server, address in enumerate((A, B)):
        fields = handle(Message("register", {"transport.grpc": str(address)})).fields
        assert (fields["server"], fields["ttl"]) == (server, 7.0)
        epochs.append(fields["epoch"])
        handle(Message("report", {"epoch": fields["epoch"], "partition": "p", "tensors": "x\ny"}))
    question = Message("where", {"partition": "p", "tensor": "y", "transport": "grpc"})
    assert parse_holders(str(handle(question).fields["servers"])) == {0: ((epochs[0], A),), 1: ((epochs[1], B),)}
    assert handle(Message("renew", {"epoch": epochs[0]})).method == "ok"
    handle(Message("leave", {"epoch": epochs[0]}))
    assert parse_holders(str(handle(question).fields["servers"])) == {1: ((epochs[1], B),)}
    with pytest.raises(StaleEpoch):
        handle(Message("renew", {"epoch": epochs[0]}))


def test_several_holders_of_one_portion_are_one_list() -> None:
    handle = Registry(Leases(1, replicas=2)).handle
    for address in (A, B):
        epoch = handle(Message("register", {"transport.grpc": str(address), "server": 0})).fields["epoch"]
        handle(Message("report", {"epoch": epoch, "partition": "p", "tensors": "x"}))
    reply = handle(Message("where", {"partition": "p", "tensor": "x", "transport": "grpc"}))
    assert [holder.address for holder in parse_holders(str(reply.fields["servers"]))[0]] == [A, B]
    with pytest.raises(NoPortion):
        handle(Message("register", {"transport.grpc": "127.0.0.1:7003", "server": 0}))


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("drop", {}),
        ("renew", {}),
        ("renew", {"epoch": "soon"}),
        ("where", {"partition": "p"}),
        ("renew", {"epoch": math.inf}),
        ("renew", {"epoch": 1.5}),
        ("renew", {"epoch": True}),
        ("renew", {"epoch": -1}),
        ("leave", {"epoch": ""}),
        ("report", {"epoch": 1, "partition": "p"}),
        ("report", {"epoch": 1, "partition": 2, "tensors": "x"}),
        ("where", {"partition": "p", "tensor": "x", "transport": 3}),
        ("link", {}),
        ("link", {"host": "edge", "address": str(A)}),
        ("link", {"host": "edge", "address": str(A), "relay": "127.0.0.1:0"}),
        ("link", {"host": "edge", "address": "a b:1", "relay": str(B)}),
        ("link", {"host": 3, "address": str(A), "relay": str(B)}),
        ("links", {}),
        ("links", {"host": 3}),
        ("who", {"partition": "p"}),
        ("register", {}),
        ("register", {"transport.grpc": "nowhere"}),
        ("register", {"transport.grpc": 7000}),
        ("register", {"transport.grpc": "127.0.0.1:0"}),
        ("register", {"transport.grpc": "127.0.0.1:70000"}),
        ("register", {"transport.grpc": "a host:7000"}),
        ("register", {"transport.grpc": "a,9@b:7000"}),
        ("register", {"transport.grpc": str(A), "server": "first"}),
        ("register", {"transport.grpc": str(A), "server": -1}),
        ("register", {"transport.grpc": str(A), "epoch": math.nan}),
        ("register", {"transport.grpc": str(A), "epoch": math.inf}),
    ],
)
def test_malformed_fields_are_refused_with_the_name_of_the_method(method: str, fields: dict[str, Scalar]) -> None:
    registry = Registry(Leases(1))
    with pytest.raises(MalformedMessage, match=f"'{method}'"):
        registry.handle(Message(method, fields))
    assert registry.handle(Message("register", {"transport.grpc": str(A)})).fields["server"] == 0  # none was taken


@pytest.mark.parametrize("text", ["0", "0=", "x=7@a:1", "0=soon@a:1", "0=7@a", "0=7@a:0", "0=7@a:99999", "0=7@a:1,"])
def test_a_malformed_list_of_servers_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="list of servers"):
        parse_holders(text)


def test_each_host_has_its_own_relays() -> None:
    handle = Registry(Leases(1)).handle
    question = Message("links", {"host": "edge"})
    assert parse_links(str(handle(question).fields["links"])) == {}
    six = Address("::1", 7003)
    for host, relay in (("edge", A), ("cloud", B), ("edge", six)):  # the last relay of a host counts
        fields = {"host": host, "address": str(B), "relay": str(relay)}
        assert handle(Message("link", fields)).method == "ok"
    handle(Message("link", {"host": "edge", "address": str(six), "relay": str(A)}))
    assert parse_links(str(handle(question).fields["links"])) == {B: six, six: A}
    assert parse_links(str(handle(Message("links", {"host": "cloud"})).fields["links"])) == {B: B}


@pytest.mark.parametrize("text", ["a:1", "a:1=", "a:1=b", "=a:1", "a:1=b:0", "a:1=b:2=c:3"])
def test_a_malformed_list_of_links_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage, match="list of links"):
        parse_links(text)
