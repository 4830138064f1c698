"""Replicas: the client chooses one for each request, and all servers send to it, whatever they have cached."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from msgspec.structs import replace

import transports
from cluster import directory
from cluster.dispatcher import Dispatcher
from cluster.errors import NoServer
from cluster.leases import Leases
from cluster.registry import Registry
from cluster.request import Request, Route
from tests.cluster.plans import chain, placed
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage

PARTITION = placed(chain(2), [0, 1])
OUTPUT = {"a0": np.zeros((1, 2), np.float32)}


@pytest.fixture
def leases() -> Leases:
    """Two portions, up to two holders each: portion 0 has one holder, portion 1 has two."""
    made = Leases(2, replicas=2, ttl=math.inf)
    for port, claim in ((1, 0), (2, 1), (3, 1)):
        _join(made, port, claim)
    return made


def _join(leases: Leases, port: int, claim: int, transport: str = "none") -> int:
    lease = leases.take({transport: Address("here", port)}, claim)
    leases.report(lease.epoch, PARTITION.name, PARTITION.awaited(claim))
    return lease.epoch


@pytest.fixture
def dispatchers(leases: Leases) -> Iterator[list[Dispatcher]]:
    transport = transports.make("none")
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(transport.serve(Registry(leases).handle, "here", 0, 1))
        made = [Dispatcher({"none": transport}, {"none": server.address}) for _ in range(2)]
        for dispatcher in made:
            stack.callback(dispatcher.close)
            port_of(dispatcher, request(0))  # the first answer says how many replicas there are
        yield made


def request(turn: int, **more: int) -> Request:
    return Request(f"r-{turn}", Route(PARTITION.name, "eager", "none"), time.monotonic() + 20, turn=turn, **more)


def port_of(dispatcher: Dispatcher, request: Request) -> int:
    """The port to which the dispatcher would send the output of server 0."""
    ((delivery, _),) = dispatcher.directory.deliveries(request, PARTITION, OUTPUT)
    return delivery.holder.address.port


def test_every_sender_uses_the_replica_that_the_client_chose(dispatchers: list[Dispatcher]) -> None:
    for turn in range(6):
        pinned, _ = dispatchers[0].directory.pinned(request(turn), PARTITION)
        again = Request.of(pinned.fields())
        assert {port_of(dispatcher, again) for dispatcher in dispatchers} == {2 + turn % 2}


def test_a_sender_looks_up_a_replica_that_its_cache_lacks(dispatchers: list[Dispatcher], leases: Leases) -> None:
    pinned, _ = dispatchers[0].directory.pinned(request(1), PARTITION)
    leases.leave(pinned.pins[1])
    epoch = _join(leases, 4, 1)
    fresh, _ = dispatchers[1].directory.pinned(request(1, attempt=1), PARTITION)
    assert fresh.pins[1] == epoch
    assert [port_of(dispatcher, fresh) for dispatcher in dispatchers] == [4, 4]
    with pytest.raises(NoServer, match=r"the pinned replica .* no longer holds stage 'a1'"):
        port_of(dispatchers[1], replace(pinned, attempt=1))


def test_replicas_of_a_failed_request_are_avoided(dispatchers: list[Dispatcher]) -> None:
    lost, _ = dispatchers[0].directory.pinned(request(0), PARTITION)
    dispatchers[0].directory.avoid(lost)
    for turn in range(4):
        pinned, _ = dispatchers[0].directory.pinned(request(turn), PARTITION)
        assert pinned.pins[1] != lost.pins[1]
        assert pinned.pins[0] == lost.pins[0]  # portion 0 has only one holder


def test_an_answer_without_a_holder_is_not_cached(leases: Leases, dispatchers: list[Dispatcher]) -> None:
    for epoch, _ in leases.who(PARTITION.name, "none")[1]:
        leases.leave(epoch)
    with pytest.raises(NoServer, match="no server holds stage 'a1'"):
        port_of(dispatchers[0], request(0, attempt=1))
    _join(leases, 5, 1)
    assert port_of(dispatchers[0], request(0)) == 5


def test_an_answer_that_lacks_a_portion_is_not_cached(leases: Leases, dispatchers: list[Dispatcher]) -> None:
    for epoch, _ in leases.who(PARTITION.name, "none")[1]:
        leases.leave(epoch)
    partial, _ = dispatchers[0].directory.pinned(request(0), PARTITION)
    assert set(partial.pins) == {0}
    epoch = _join(leases, 5, 1)
    pinned, _ = dispatchers[0].directory.pinned(request(1), PARTITION)
    assert pinned.pins[1] == epoch


def test_the_registries_of_two_transports_may_differ_in_replicas(leases: Leases) -> None:
    """In a run with `--transport none,grpc --replicas 2`, only one of both has replicas. Here it is `none`."""
    single = Leases(2, ttl=math.inf)
    for claim in (0, 1):
        _join(single, 7 + claim, claim, "grpc")
    by_name = {name: transports.make(name) for name in ("none", "grpc")}
    with contextlib.ExitStack() as stack:
        served = {"none": Registry(leases), "grpc": Registry(single)}
        servers = {
            name: stack.enter_context(by_name[name].serve(registry.handle, "127.0.0.1", 0, 2))
            for name, registry in served.items()
        }
        made = Dispatcher(by_name, {name: server.address for name, server in servers.items()})
        stack.callback(made.close)
        port_of(made, request(0))
        port_of(made, replace(request(0), route=Route(PARTITION.name, "eager", "grpc")))
        pinned, _ = made.directory.pinned(request(1), PARTITION)
        assert set(pinned.pins) == {0, 1}
        unpinned, _ = made.directory.pinned(
            replace(request(1), route=Route(PARTITION.name, "eager", "grpc")), PARTITION
        )
        assert not unpinned.pins


@contextlib.contextmanager
def asking(leases: Leases) -> Iterator[tuple[Dispatcher, list[str]]]:
    """A dispatcher for two portions, held at ports 1 and 2, and the methods that its registry is asked."""
    for claim in (0, 1):
        _join(leases, claim + 1, claim)
    transport, registry, asked = transports.make("none"), Registry(leases), list[str]()

    def handle(message: Message) -> Message:
        asked.append(message.method)
        return registry.handle(message)

    with (
        transport.serve(handle, "here", 0, 1) as server,
        contextlib.closing(Dispatcher({"none": transport}, {"none": server.address})) as dispatcher,
    ):
        yield dispatcher, asked


def test_where_tensors_go_is_looked_up_once_until_it_is_forgotten() -> None:
    single = Leases(2, ttl=math.inf)
    with asking(single) as (dispatcher, asked):
        assert [port_of(dispatcher, request(turn)) for turn in range(3)] == [2, 2, 2]
        assert asked == ["where"]
        each = replace(request(0), route=Route(PARTITION.name, "eager", "none", registry="per-hop"))
        assert (port_of(dispatcher, each), port_of(dispatcher, request(3, attempt=1))) == (2, 2)
        assert asked == ["where"] * 3
        ((lost, _),) = dispatcher.directory.deliveries(request(4), PARTITION, OUTPUT)
        single.leave(lost.holder.epoch)
        _join(single, 3, 1)
        assert port_of(dispatcher, request(5)) == 2  # until a call fails
        dispatcher.directory.forget(lost.holder)
        assert [port_of(dispatcher, request(turn)) for turn in range(2)] == [3, 3]
        assert asked == ["where"] * 4
        with pytest.raises(NoServer, match="the pinned replica"):
            port_of(dispatcher, replace(request(6), pins={1: lost.holder.epoch}))


def test_where_tensors_go_is_looked_up_again_after_a_lease(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(directory, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with asking(Leases(2, ttl=5.0)) as (dispatcher, asked):
        for moment, count in ((1000.0, 1), (1004.0, 1), (1005.5, 2), (1010.0, 2)):
            now[0] = moment
            assert port_of(dispatcher, request(0)) == 2
            assert len(asked) == count, moment


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
