"""Where tensors go when several servers hold a portion: chosen once for a request, whatever each sender remembers."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

import numpy as np
import pytest
from msgspec.structs import replace

import transports
from cluster.dispatcher import Dispatcher
from cluster.errors import NoServer
from cluster.leases import Leases
from cluster.registry import Registry
from cluster.request import Request, Route
from tests.cluster.plans import chain, partition
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage

CUT = partition(chain(2), [0, 1])
OUTPUT = {"a0": np.zeros((1, 2), np.float32)}


@pytest.fixture
def leases() -> Leases:
    """Of two shards for two servers each; portion 1 is held twice."""
    made = Leases(2, replicas=2, ttl=math.inf)
    for port, claim in ((1, 0), (2, 1), (3, 1)):
        _join(made, port, claim)
    return made


def _join(leases: Leases, port: int, claim: int, transport: str = "none") -> int:
    lease = leases.take({transport: Address("here", port)}, claim)
    leases.report(lease.epoch, CUT.name, CUT.awaited(claim))
    return lease.epoch


@pytest.fixture
def dispatchers(leases: Leases) -> Iterator[list[Dispatcher]]:
    carrier = transports.make("none")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(carrier.serve(Registry(leases).handle, "here", 0, 1))
        made = [Dispatcher({"none": carrier}, {"none": server.address}) for _ in range(2)]
        for dispatcher in made:
            stack.callback(dispatcher.close)
            port_of(dispatcher, request(0))  # now it knows that shards are held twice
        yield made


def request(turn: int, **more: int) -> Request:
    return Request(f"r-{turn}", Route(CUT.name, "eager", "none"), time.monotonic() + 20, turn=turn, **more)


def port_of(dispatcher: Dispatcher, asked: Request) -> int:
    """Where the dispatcher would send the output of server 0."""
    ((delivery, _),) = dispatcher.deliveries(asked, CUT, OUTPUT)
    return delivery.holder.address.port


def test_servers_with_one_portion_take_turns_whoever_sends(dispatchers: list[Dispatcher]) -> None:
    for turn in range(6):
        pinned, _ = dispatchers[0].pinned(request(turn), CUT)
        again = Request.of(pinned.fields())
        assert {port_of(dispatcher, again) for dispatcher in dispatchers} == {2 + turn % 2}


def test_a_sender_that_knows_an_older_view_asks_again(dispatchers: list[Dispatcher], leases: Leases) -> None:
    pinned, _ = dispatchers[0].pinned(request(1), CUT)
    leases.leave(pinned.pins[1])
    epoch = _join(leases, 4, 1)
    fresh, _ = dispatchers[1].pinned(request(1, attempt=1), CUT)
    assert fresh.pins[1] == epoch
    assert [port_of(dispatcher, fresh) for dispatcher in dispatchers] == [4, 4]
    with pytest.raises(NoServer, match=r"the pinned replica .* no longer holds stage 'a1'"):
        port_of(dispatchers[1], Request.of({**pinned.fields(), "attempt": 1}))


def test_servers_of_a_request_that_was_lost_are_left_out(dispatchers: list[Dispatcher]) -> None:
    lost, _ = dispatchers[0].pinned(request(0), CUT)
    dispatchers[0].avoid(lost)
    for turn in range(4):
        pinned, _ = dispatchers[0].pinned(request(turn), CUT)
        assert pinned.pins[1] != lost.pins[1]
        assert pinned.pins[0] == lost.pins[0]  # there is no other


def test_a_portion_that_nobody_holds_is_not_remembered_as_such(leases: Leases, dispatchers: list[Dispatcher]) -> None:
    for epoch, _ in leases.who(CUT.name, "none")[1]:
        leases.leave(epoch)
    asked = request(0, attempt=1)
    with pytest.raises(NoServer, match="no server holds stage 'a1'"):
        port_of(dispatchers[0], asked)
    _join(leases, 5, 1)
    assert port_of(dispatchers[0], request(0)) == 5


def test_a_view_without_everyone_is_not_remembered(leases: Leases, dispatchers: list[Dispatcher]) -> None:
    for epoch, _ in leases.who(CUT.name, "none")[1]:
        leases.leave(epoch)
    partial, _ = dispatchers[0].pinned(request(0), CUT)
    assert set(partial.pins) == {0}
    epoch = _join(leases, 5, 1)
    pinned, _ = dispatchers[0].pinned(request(1), CUT)
    assert pinned.pins[1] == epoch


def test_replicas_of_one_registry_take_turns_whatever_another_registry_answers(leases: Leases) -> None:
    """As with `--transport none,grpc --replicas 2`: the registry over `none` has no replicas, the other one has."""
    single = Leases(2, ttl=math.inf)
    for claim in (0, 1):
        _join(single, 7 + claim, claim, "grpc")
    carriers = {name: transports.make(name) for name in ("none", "grpc")}
    with contextlib.ExitStack() as stack:
        served = {"none": Registry(leases), "grpc": Registry(single)}
        servers = {
            name: stack.enter_context(carriers[name].serve(registry.handle, "127.0.0.1", 0, 2))
            for name, registry in served.items()
        }
        made = Dispatcher(carriers, {name: server.address for name, server in servers.items()})
        stack.callback(made.close)
        port_of(made, request(0))
        port_of(made, replace(request(0), route=Route(CUT.name, "eager", "grpc")))
        pinned, _ = made.pinned(request(1), CUT)
        assert set(pinned.pins) == {0, 1}
        unpinned, _ = made.pinned(replace(request(1), route=Route(CUT.name, "eager", "grpc")), CUT)
        assert not unpinned.pins


WRONG: dict[str, dict[str, Scalar]] = {
    "nothing": {},
    "no list": {"servers": 3, "ttl": 1.0, "replicas": 1},
    "no time": {"servers": "", "ttl": 0.0, "replicas": 1},
    "a text": {"servers": "", "ttl": "soon", "replicas": 1},
    "no count": {"servers": "", "ttl": 1.0, "replicas": 1.5},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_answer_of_the_registry_is_refused(case: str) -> None:
    transport = transports.make("none")
    with (
        transport.serve(lambda message: Message("holders", WRONG[case]), "here", 0, 1) as server,
        contextlib.closing(Dispatcher({"none": transport}, {"none": server.address})) as dispatcher,
        pytest.raises(MalformedMessage, match="answered 'where' with"),
    ):
        port_of(dispatcher, request(0))
