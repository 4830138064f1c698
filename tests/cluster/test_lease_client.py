"""Lease clients over real sockets: leases are kept, lost, taken again, and reported to a restarted registry."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

import transports
from cluster.errors import NoPortion, StaleEpoch
from cluster.lease_client import LeaseClient
from cluster.leases import Leases
from cluster.registry import Registry
from tests.cluster.hosts import Clock
from transports.address import Address
from transports.base import Message, Scalar, Server, Transport
from transports.errors import MalformedMessage, WireError

LEASE = 0.4
"""Seconds of a lease, which determine when lease clients send heartbeats. The registry's clock stands still until a
test moves it, so that no lease runs out early on a slow machine."""
PATIENCE = 60.0
HERE, EPHEMERAL = Address("127.0.0.1", 7), Address("127.0.0.1", 0)


@dataclass
class RegistryHost:
    """A registry that can be closed, and started again at the same port with empty tables."""

    transport: Transport
    clock: Clock = field(default_factory=Clock)
    answers: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Method -> times of the answers (`time.monotonic()`)."""
    answering: threading.Lock = field(default_factory=threading.Lock)
    """While it is locked, the registry does not answer."""
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    address: Address = EPHEMERAL

    def open(self) -> None:
        self.leases = Leases(2, ttl=LEASE, clock=self.clock)
        self._registry = Registry(self.leases)
        self.server: Server = self.transport.serve(self._handle, *self.address, workers=8)
        self.address = self.server.address
        self.stack.callback(self.server.close)

    def _handle(self, message: Message) -> Message:
        with self.answering:
            try:
                return self._registry.handle(message)
            finally:
                self.answers[message.method].append(time.monotonic())

    def client(self, address: Address = HERE, **how: object) -> LeaseClient:
        made = LeaseClient(self.transport, self.address, {"grpc": address}, **how)  # type: ignore[arg-type]
        self.stack.callback(made.close)
        return made

    def awaited(self) -> dict[int, int]:
        """Portion -> epoch of its holder, for tensor `x`."""
        return {server: held[0].epoch for server, held in self.leases.where("p", "x", "grpc").items()}


@pytest.fixture(params=["grpc", "rpyc-tuned"])
def registry(request: pytest.FixtureRequest) -> Iterator[RegistryHost]:
    made = RegistryHost(transports.make(request.param))
    with made.stack:
        made.open()
        yield made


def eventually(true: Callable[[], object]) -> None:
    """Wait until other threads have made the condition true."""
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if true():
            return
        tick.wait(0.02)
    raise AssertionError("it did not happen")


def test_heartbeats_keep_a_lease_for_longer_than_it_lasts(registry: RegistryHost) -> None:
    client = registry.client()
    epoch = client.epoch
    client.report({"p": ["x"]})
    for _ in range(5):
        with registry.answering:
            registry.clock.now += 0.9 * LEASE
        seen = len(registry.answers["renew"])
        eventually(lambda seen=seen: len(registry.answers["renew"]) > seen)
    assert registry.awaited() == {0: epoch} == {0: client.epoch}


def test_several_heartbeats_are_sent_within_the_life_of_a_lease(registry: RegistryHost) -> None:
    """At least once, three heartbeats fall within a lease; a machine that stalls delays other heartbeats."""
    registry.client()
    eventually(lambda: len(registry.answers["renew"]) > 10)
    beats = registry.answers["renew"]
    assert min(third - first for first, third in zip(beats, beats[2:], strict=False)) < LEASE


def test_a_server_that_leaves_is_absent_at_once(registry: RegistryHost) -> None:
    client = registry.client()
    client.report({"p": ["x"]})
    client.leave()
    assert registry.awaited() == {}


def test_a_server_that_falls_silent_is_absent_after_its_lease_and_its_epoch_is_refused(registry: RegistryHost) -> None:
    client = registry.client()
    client.report({"p": ["x"]})
    client.close()
    registry.clock.now += 0.9 * LEASE
    assert registry.awaited() == {0: client.epoch}
    registry.clock.now += 0.2 * LEASE
    assert registry.awaited() == {}
    with pytest.raises(StaleEpoch):
        registry.leases.renew(client.epoch)


def test_a_lease_that_ran_out_is_taken_again_under_another_epoch(registry: RegistryHost) -> None:
    client = registry.client()
    before = client.epoch
    client.report({"p": ["x"]})
    assert registry.awaited() == {0: before}
    registry.clock.now += 1.1 * LEASE
    eventually(lambda: registry.awaited() not in ({}, {0: before}))
    assert registry.awaited() == {0: client.epoch}


def test_a_restarted_registry_learns_everything_from_its_servers(registry: RegistryHost) -> None:
    clients = [registry.client(Address("127.0.0.1", port)) for port in (7, 8)]
    for client in clients:
        client.report({"p": ["x"]})
    before = registry.awaited()
    registry.server.close()
    registry.open()
    eventually(lambda: len(registry.awaited()) == len(clients))
    assert registry.awaited() == before == {client.server: client.epoch for client in clients}


def test_the_loss_of_a_portion_is_reported_once(registry: RegistryHost) -> None:
    lost: list[WireError] = []
    client = registry.client(claim=1, lost=lost.append)
    with registry.answering:
        registry.leases.leave(client.epoch)
        other = registry.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=1)
        registry.leases.report(other.epoch, "p", ["x"])
    eventually(lambda: lost)
    assert [type(error) for error in lost] == [NoPortion]
    assert registry.awaited() == {1: other.epoch}


def test_a_client_with_patience_waits_for_its_portion(registry: RegistryHost) -> None:
    registry.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=0)
    with ThreadPoolExecutor() as threads:
        client = threads.submit(registry.client, claim=0, patience=PATIENCE)
        eventually(lambda: len(registry.answers["register"]) > 1)
        registry.clock.now += 1.1 * LEASE  # the other server sends no heartbeats
        assert client.result().server == 0


def test_a_client_without_patience_is_refused_at_once(registry: RegistryHost) -> None:
    registry.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=0)
    with pytest.raises(NoPortion, match="portion 0 is taken"):
        registry.client(claim=0)


WRONG: dict[str, dict[str, Scalar]] = {
    "nothing": {},
    "no epoch": {"server": 0, "ttl": 1.0},
    "a text": {"server": "0", "epoch": 1, "ttl": 1.0},
    "a fraction": {"server": 0, "epoch": 1.5, "ttl": 1.0},
    "no time": {"server": 0, "epoch": 1, "ttl": 0.0},
    "not a number": {"server": 0, "epoch": 1, "ttl": math.nan},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_answer_of_the_registry_is_refused(case: str) -> None:
    transport = transports.make("grpc")
    with (
        transport.serve(lambda message: Message("registered", WRONG[case]), *EPHEMERAL, workers=1) as server,
        pytest.raises(MalformedMessage, match="answered 'register' with"),
    ):
        LeaseClient(transport, server.address, {"grpc": HERE})
