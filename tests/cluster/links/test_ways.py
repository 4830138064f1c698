"""Nodes and a client whose hosts are joined by relays: every way that a message goes is delayed, and no other."""

from __future__ import annotations

import contextlib
import itertools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

import transports
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.execution import Execute
from cluster.links.link import Link
from cluster.links.relay import Relay
from cluster.request import Request, Route
from cluster.usage import Usage
from tests.cluster.hosts import Nodes
from tests.cluster.links.traffic import Receiver, opened, server
from tests.cluster.plans import chain, placed
from transports.address import Address
from transports.base import Message
from transports.errors import MalformedMessage, WireError

RTT = 0.04
"""Seconds, of each of the three links."""
SLACK = 1e-3
"""Seconds by which clocks may differ."""
HOSTS = ("client", "near", "far")
"""`near` holds server 0; `far` holds server 1 and the registry."""
PARTITION = placed(chain(2), [0, 1])
INPUT = {"x": np.ones((1, 2), np.float32)}
NETWORKS = [name for name in transports.NAMES if transports.kind(name).crosses_network]
FLOWS = ("nested", "hub", "forward")

BOUNDS: Mapping[str, Mapping[str, float]] = {
    # There and back on both ways; forward: from each host to the next one.
    "warm": {"nested": 2, "hub": 2, "forward": 1.5},
    # A lookup by the client and one by server 0; with hub two by the client.
    "registry": {"nested": 4, "hub": 4, "forward": 3.5},
    # A handshake takes a round trip before the message leaves.
    "connections": {"nested": 4, "hub": 4, "forward": 4.5},
}
"""What is done for each message -> flow -> the least time of a request, in round trips."""


def add_one(inputs: Sequence[Any], seconds: float) -> list[Any]:
    return [inputs[0] + 1]


def fail(inputs: Sequence[Any], seconds: float) -> list[Any]:
    raise ValueError("no")


@dataclass(frozen=True)
class Linked:
    """A client and two servers, with a relay between each two of their hosts."""

    nodes: Nodes
    client: Client
    dispatcher: Dispatcher
    relays: Mapping[frozenset[str], Relay]
    servers: Mapping[str, Address]

    def used(self, host: str) -> Usage:
        """What the server on a host has used, asked over no link."""
        with transports.make("tcp").connect(self.servers[host]) as connection:
            return Usage.of(connection.call(Message("usage"), 20.0))

    def infer(self, route: Route) -> float:
        """The seconds that a request takes."""
        began = time.monotonic()
        answer = self.client.infer(PARTITION, route, INPUT, 20.0)
        seconds = time.monotonic() - began
        assert {name: array.tolist() for name, array in answer.outputs.items()} == {"a1": [[3.0, 3.0]]}
        return seconds

    def carried(self) -> dict[tuple[str, str], int]:
        """(source, target) -> bytes that a relay has carried."""
        ways = itertools.permutations(HOSTS, 2)
        return {(source, target): self.relays[frozenset({source, target})].carried(source) for source, target in ways}


@contextlib.contextmanager
def linked(transport: str, last: Execute = add_one) -> Iterator[Linked]:
    """`last` is what server 1 executes."""
    stages = dict(zip((stage.name for stage in PARTITION.plan.stages), (add_one, last), strict=True))
    with Nodes(2, stages, PARTITION, transport=transport) as nodes:
        relays = {}
        for pair in itertools.combinations(HOSTS, 2):
            link = Link(*pair, delay=RTT / 2)
            relays[frozenset(pair)] = nodes.enter_context(Relay(dict.fromkeys(link.directions(), link), seed=1))
        servers = {host: nodes.start(host).addresses[transport] for host in HOSTS[1:]}
        dispatcher, receiver = nodes.dispatcher("client"), nodes.receiver()
        at = {address: host for host, address in servers.items()}
        at |= {nodes.registries[transport]: "far", receiver.address(transport): "client"}
        for address, target in at.items():
            for source in set(HOSTS) - {target}:
                publish(nodes, source, address, relays[frozenset({source, target})].reach(source, address))
        yield Linked(nodes, Client(dispatcher, receiver), dispatcher, relays, servers)


def publish(nodes: Nodes, host: str, address: Address, relay: Address) -> None:
    nodes.registry.handle(Message("link", {"host": host, "address": str(address), "relay": str(relay)}))


@pytest.mark.parametrize("transport", NETWORKS)
def test_a_request_takes_the_round_trips_of_its_ways(transport: str) -> None:
    with linked(transport) as on:
        for flow in FLOWS:
            route = replace(on.nodes.route(PARTITION, flow), linked=True)
            on.infer(route)
            assert on.infer(route) >= BOUNDS["warm"][flow] * RTT - SLACK, flow


@pytest.mark.parametrize("transport", ["grpc", "tcp", "rest"])
def test_lookups_and_handshakes_cross_the_links_too(transport: str) -> None:
    with linked(transport) as on:
        for flow in FLOWS:
            warm = replace(on.nodes.route(PARTITION, flow), linked=True)
            on.infer(warm)
            assert on.infer(replace(warm, registry="per-hop")) >= BOUNDS["registry"][flow] * RTT - SLACK, flow
            assert on.infer(replace(warm, connections="per-hop")) >= BOUNDS["connections"][flow] * RTT - SLACK, flow


WAYS = {
    "nested": {("client", "near"), ("near", "far")},
    "hub": {("client", "near"), ("client", "far")},
    "forward": {("client", "near"), ("near", "far"), ("far", "client")},
}
"""Flow -> the ways of its calls."""


@pytest.mark.parametrize("flow", FLOWS)
def test_messages_go_through_the_relays_of_their_ways_alone(flow: str) -> None:
    with linked("tcp") as on:
        route = replace(on.nodes.route(PARTITION, flow), linked=True)
        on.infer(route)  # with lookups
        before = on.carried()
        on.infer(route)
        after = on.carried()
    used = {way for way in after if after[way] > before[way]}
    # Acknowledgements in the other direction may still be on their way.
    assert WAYS[flow] <= used <= WAYS[flow] | {(target, source) for source, target in WAYS[flow]}


@pytest.mark.parametrize("transport", NETWORKS)
def test_requests_without_links_go_through_no_relay(transport: str) -> None:
    with linked(transport) as on:
        for flow, registry in itertools.product(FLOWS, ("cached", "per-hop")):
            on.infer(replace(on.nodes.route(PARTITION, flow), registry=registry))
        assert set(on.carried().values()) == {0}


def test_a_notice_of_failure_crosses_the_link_to_the_client() -> None:
    with linked("tcp", fail) as on:
        route = replace(on.nodes.route(PARTITION, "forward"), linked=True)
        for _ in range(2):
            before, began = on.carried()["far", "client"], time.monotonic()
            with pytest.raises(WireError, match="failed with ValueError"):
                on.client.infer(PARTITION, route, INPUT, 20.0)
            assert time.monotonic() - began >= 1.5 * RTT - SLACK
            assert on.carried()["far", "client"] > before


def test_links_over_a_transport_without_a_registry_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    """Also a notice of failure ends with a line in the log: its client is unreachable, and nothing else is wrong."""
    route = Route(PARTITION.name, "eager", "tpc", linked=True)
    request = Request("r", route, time.monotonic() + 20.0, reply_to="127.0.0.1:9")
    here = Address("127.0.0.1", 9)
    with contextlib.closing(Dispatcher({"tcp": transports.make("tcp")}, {"tcp": here}, "near")) as dispatcher:
        with pytest.raises(MalformedMessage, match="no registry over transport 'tpc'; did you mean 'tcp'"):
            dispatcher.call(request, here, Message("infer"))
        with caplog.at_level(logging.WARNING, "splitbench.cluster"):
            dispatcher.send_failure(request, MalformedMessage("why"))
    assert "the client cannot be notified: no registry over transport 'tpc'" in caplog.text


def test_a_malformed_answer_about_links_is_refused() -> None:
    answers = iter([Message("linked"), Message("linked", {"links": 3}), Message("linked", {"links": "a:1=b"})])
    transport = transports.make("tcp")
    with transport.serve(lambda message: next(answers), "127.0.0.1", 0, 1) as server:
        registries = {"tcp": server.address}
        with contextlib.closing(Dispatcher({"tcp": transport}, registries, "near")) as dispatcher:
            route = Route(PARTITION.name, "eager", "tcp", linked=True)
            for _ in range(3):
                request = Request("r", route, time.monotonic() + 20.0)
                with pytest.raises(MalformedMessage, match=r"answered 'links' with|list of links"):
                    dispatcher.call(request, server.address, Message("infer"))


@pytest.mark.parametrize("flow", FLOWS)
def test_bytes_are_counted_before_the_client_has_its_outputs(flow: str) -> None:
    """The answer to what a server sent may come back over a link much later."""
    size = INPUT["x"].nbytes
    with linked("tcp") as on:
        route = replace(on.nodes.route(PARTITION, flow), linked=True)
        for count in (1, 2, 3):
            on.infer(route)
            counted = {host: on.used(host).traffic.values() for host in ("near", "far")}
            sent = {host: sum(there for there, _ in calls) for host, calls in counted.items()}
            back = {host: sum(back for _, back in calls) for host, calls in counted.items()}
            forwards, answers = (flow != "hub"), (flow == "nested")
            assert sent == {"near": count * size * forwards, "far": count * size * (flow == "forward")}
            assert back == {"near": count * size * answers, "far": 0}


def test_jitter_goes_on_when_the_links_change() -> None:
    """Else each block of requests would meet the same few delays."""
    link = Link.parse("a<->b rtt:40ms,jitter:20ms")
    links, receiver = dict.fromkeys(link.directions(), link), Receiver(1)
    with Relay(links, seed=1) as running, server(receiver) as address, opened(running, address, receiver) as sock:
        delays = []
        for _ in range(6):
            running.shape({})
            running.shape(links)
            began = time.monotonic()
            sock.sendall(b"x")
            delays.append(receiver.moments(1)[0] - began)
    assert max(delays) - min(delays) > 0.005
