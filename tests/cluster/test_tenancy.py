"""A server's place in the registry over real sockets: kept, lost, taken anew, and told to a registry that is new."""

from __future__ import annotations

import contextlib
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
from transports.address import Address
from transports.base import Message, Server, Transport
from transports.errors import WireError

LEASE = 0.4
"""Seconds: of the tenants' clock, which says when they send heartbeats. The registry's stands still until a test sets
it, so that a lease runs out when that is meant, however long the machine stalls."""
PATIENCE = 60.0
HERE, EPHEMERAL = Address("127.0.0.1", 7), Address("127.0.0.1", 0)


class Clock:
    """The registry's."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Office:
    """A registry that can be closed, and opened anew at the same port with nothing in its memory."""

    transport: Transport
    clock: Clock = field(default_factory=Clock)
    asked: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Method -> when such questions had their answers (`time.monotonic()`)."""
    answering: threading.Lock = field(default_factory=threading.Lock)
    """Whoever has it keeps every question waiting."""
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
                self.asked[message.method].append(time.monotonic())

    def tenant(self, address: Address = HERE, **how: object) -> LeaseClient:
        made = LeaseClient(self.transport, self.address, {"grpc": address}, **how)  # type: ignore[arg-type]
        self.stack.callback(made.close)
        return made

    def awaited(self) -> dict[int, int]:
        """Shard -> epoch of its holder, for tensor `x`."""
        return {server: held[0].epoch for server, held in self.leases.where("p", "x", "grpc").items()}


@pytest.fixture(params=["grpc", "rpyc-tuned"])
def office(request: pytest.FixtureRequest) -> Iterator[Office]:
    made = Office(transports.make(request.param))
    with made.stack:
        made.open()
        yield made


def eventually(true: Callable[[], object]) -> None:
    """Wait for what other threads bring about."""
    tick = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if true():
            return
        tick.wait(0.02)
    raise AssertionError("it did not come about")


def test_heartbeats_keep_a_lease_for_longer_than_it_lasts(office: Office) -> None:
    tenant = office.tenant()
    epoch = tenant.epoch
    tenant.report({"p": ["x"]})
    for _ in range(5):
        with office.answering:
            office.clock.now += 0.9 * LEASE
        seen = len(office.asked["renew"])
        eventually(lambda seen=seen: len(office.asked["renew"]) > seen)
    assert office.awaited() == {0: epoch} == {0: tenant.epoch}


def test_several_heartbeats_are_sent_within_the_life_of_a_lease(office: Office) -> None:
    """Some three, at least: where the machine stalls, others are further apart."""
    office.tenant()
    eventually(lambda: len(office.asked["renew"]) > 10)
    beats = office.asked["renew"]
    assert min(third - first for first, third in zip(beats, beats[2:], strict=False)) < LEASE


def test_a_server_that_leaves_is_absent_at_once(office: Office) -> None:
    tenant = office.tenant()
    tenant.report({"p": ["x"]})
    tenant.leave()
    assert office.awaited() == {}


def test_a_server_that_falls_silent_is_absent_after_its_lease_and_its_epoch_is_refused(office: Office) -> None:
    tenant = office.tenant()
    tenant.report({"p": ["x"]})
    tenant.close()
    office.clock.now += 0.9 * LEASE
    assert office.awaited() == {0: tenant.epoch}
    office.clock.now += 0.2 * LEASE
    assert office.awaited() == {}
    with pytest.raises(StaleEpoch):
        office.leases.renew(tenant.epoch)


def test_a_lease_that_ran_out_is_taken_anew_under_another_epoch(office: Office) -> None:
    tenant = office.tenant()
    before = tenant.epoch
    tenant.report({"p": ["x"]})
    assert office.awaited() == {0: before}
    office.clock.now += 1.1 * LEASE
    eventually(lambda: office.awaited() not in ({}, {0: before}))
    assert office.awaited() == {0: tenant.epoch}


def test_a_registry_that_starts_anew_is_told_by_its_servers(office: Office) -> None:
    tenants = [office.tenant(Address("127.0.0.1", port)) for port in (7, 8)]
    for tenant in tenants:
        tenant.report({"p": ["x"]})
    before = office.awaited()
    office.server.close()
    office.open()
    eventually(lambda: len(office.awaited()) == len(tenants))
    assert office.awaited() == before == {tenant.server: tenant.epoch for tenant in tenants}


def test_a_server_whose_portion_was_taken_meanwhile_is_told_once(office: Office) -> None:
    told: list[WireError] = []
    tenant = office.tenant(claim=1, lost=told.append)
    with office.answering:
        office.leases.leave(tenant.epoch)
        other = office.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=1)
        office.leases.report(other.epoch, "p", ["x"])
    eventually(lambda: told)
    assert [type(error) for error in told] == [NoPortion]
    assert office.awaited() == {1: other.epoch}


def test_it_waits_for_a_portion_that_is_not_free_yet(office: Office) -> None:
    office.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=0)
    with ThreadPoolExecutor() as threads:
        tenant = threads.submit(office.tenant, claim=0, patience=PATIENCE)
        eventually(lambda: len(office.asked["register"]) > 1)
        office.clock.now += 1.1 * LEASE  # the other one sends no heartbeats
        assert tenant.result().server == 0


def test_it_is_refused_at_once_where_it_does_not_wait(office: Office) -> None:
    office.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=0)
    with pytest.raises(NoPortion, match="portion 0 is taken"):
        office.tenant(claim=0)
