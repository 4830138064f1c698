"""A server's place in the registry over real sockets: kept, lost, taken anew, and told to a registry that is new."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest

import transports
from cluster.errors import NoPortion, StaleEpoch
from cluster.leases import Leases
from cluster.registry import Registry
from cluster.tenancy import Tenancy
from transports.base import Address, Server, Transport
from transports.errors import WireError

LEASE = 0.4
PATIENCE = 20.0
HERE, EPHEMERAL = Address("127.0.0.1", 7), Address("127.0.0.1", 0)


@dataclass
class Office:
    """A registry that can be closed, and opened anew at the same port with nothing in its memory."""

    transport: Transport
    stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    address: Address = EPHEMERAL

    def open(self, ttl: float = LEASE) -> None:
        self.leases = Leases(2, ttl=ttl)
        self.server: Server = self.transport.serve(Registry(self.leases).handle, *self.address, workers=8)
        self.address = self.server.address
        self.stack.callback(self.server.close)

    def tenant(self, address: Address = HERE, **how: object) -> Tenancy:
        made = Tenancy(self.transport, self.address, {"grpc": address}, **how)  # type: ignore[arg-type]
        self.stack.callback(made.close)
        return made

    def awaited(self) -> dict[int, int]:
        """Portion -> epoch of its holder, for tensor `x`."""
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
    tenant.report({"p": ["x"]})
    threading.Event().wait(3 * LEASE)
    assert office.awaited() == {0: tenant.epoch}


def test_a_server_that_leaves_is_absent_at_once(office: Office) -> None:
    tenant = office.tenant()
    tenant.report({"p": ["x"]})
    tenant.leave()
    assert office.awaited() == {}


def test_a_server_that_falls_silent_is_absent_after_its_lease_and_its_epoch_is_refused(office: Office) -> None:
    tenant = office.tenant()
    tenant.report({"p": ["x"]})
    tenant.close()
    eventually(lambda: office.awaited() == {})
    with pytest.raises(StaleEpoch):
        office.leases.renew(tenant.epoch)


def test_a_lease_that_ran_out_is_taken_anew_under_another_epoch(office: Office) -> None:
    tenant = office.tenant()
    tenant.report({"p": ["x"]})
    before = tenant.epoch
    office.leases.leave(before)  # to the server it is as if it had been silent for too long
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
    with contextlib.suppress(StaleEpoch):
        office.leases.leave(tenant.epoch)
    other = office.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=1)
    office.leases.report(other.epoch, "p", ["x"])
    office.leases.ttl = 1e9
    office.leases.renew(other.epoch)
    eventually(lambda: told)
    assert [type(error) for error in told] == [NoPortion]
    assert office.awaited() == {1: other.epoch}


def test_it_waits_for_a_portion_that_is_not_free_yet(office: Office) -> None:
    office.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=0)
    assert office.tenant(claim=0, patience=PATIENCE).server == 0  # the other one sends no heartbeats


def test_it_is_refused_at_once_where_it_does_not_wait(office: Office) -> None:
    office.leases.ttl = 1e9
    office.leases.take({"grpc": Address("127.0.0.1", 9)}, claim=0)
    with pytest.raises(NoPortion, match="portion 0 is taken"):
        office.tenant(claim=0)
