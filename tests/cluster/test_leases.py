"""Leases: their portions, epochs and ends."""

from __future__ import annotations

import pytest

from cluster.errors import NoPortion, StaleEpoch
from cluster.leases import Leases
from tests.cluster.hosts import Clock
from transports.address import Address

A, B, C, D = ({"grpc": Address("127.0.0.1", port)} for port in (7001, 7002, 7003, 7004))
TTL = 10.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


def leases(clock: Clock, servers: int = 2, replicas: int = 1) -> Leases:
    return Leases(servers, replicas, TTL, clock)


def test_servers_get_the_portions_in_turn(clock: Clock) -> None:
    made = leases(clock)
    assert [made.take(A).server, made.take(B).server] == [0, 1]
    with pytest.raises(NoPortion, match="all 2 portions"):
        made.take(C)


def test_a_server_without_heartbeats_is_absent_after_its_lease(clock: Clock) -> None:
    made = leases(clock)
    silent, other = made.take(A), made.take(B)
    for lease in (silent, other):
        made.report(lease.epoch, "p", ["x"])
    clock.now = TTL - 1
    made.renew(other.epoch)
    clock.now = TTL + 1
    assert set(made.where("p", "x", "grpc")) == {other.server}
    with pytest.raises(StaleEpoch, match=str(silent.epoch)):
        made.renew(silent.epoch)
    with pytest.raises(StaleEpoch):
        made.report(silent.epoch, "p", ["x"])


def test_a_new_server_gets_the_missing_portion(clock: Clock) -> None:
    made = leases(clock, servers=3)
    first, second, third = made.take(A), made.take(B), made.take(C)
    made.leave(second.epoch)
    assert made.take(D).server == second.server
    clock.now = 2 * TTL
    assert made.take(B).server == first.server
    assert made.take(C, claim=third.server).server == third.server


def test_a_server_that_restarts_at_an_address_replaces_its_predecessor(clock: Clock) -> None:
    made = leases(clock)
    before = made.take(A)
    made.report(before.epoch, "p", ["x"])
    made.take(B)
    after = made.take(A)
    assert after.server == before.server
    assert after.epoch > before.epoch
    assert made.where("p", "x", "grpc") == {}  # the new server has not reported yet


def test_a_claim_is_granted_or_refused_and_never_changed(clock: Clock) -> None:
    made = leases(clock)
    assert made.take(A, claim=1).server == 1
    with pytest.raises(NoPortion, match="portion 1 is taken"):
        made.take(B, claim=1)
    with pytest.raises(NoPortion, match="no portion 2: the model has 2"):
        made.take(B, claim=2)


def test_replicas_fill_every_portion_before_any_twice(clock: Clock) -> None:
    made = leases(clock, replicas=2)
    assert [made.take(addresses).server for addresses in (A, B, C, D)] == [0, 1, 0, 1]


def test_a_lease_that_ran_out_is_taken_again_under_another_epoch(clock: Clock) -> None:
    made = leases(clock)
    before = made.take(A, claim=1)
    clock.now = 2 * TTL
    after = made.take(A, claim=before.server, epoch=before.epoch)
    assert (after.server, after.epoch > before.epoch) == (1, True)


def test_a_restarted_registry_takes_over_the_epochs_of_the_last_one(clock: Clock) -> None:
    before = leases(clock).take(A, claim=1)
    successor = leases(clock)
    with pytest.raises(StaleEpoch):
        successor.renew(before.epoch)
    kept = successor.take(A, claim=before.server, epoch=before.epoch)
    assert (kept.server, kept.epoch) == (before.server, before.epoch)
    assert successor.take(B).epoch > before.epoch


def test_a_tensor_is_awaited_by_a_list_of_servers(clock: Clock) -> None:
    made = leases(clock, servers=3)
    epochs = [made.take(addresses | {"rpyc": Address("127.0.0.1", port)}).epoch for addresses, port in ((A, 1), (B, 2))]
    made.report(epochs[0], "layer", ["skip", "x"])
    made.report(epochs[1], "layer", ["skip"])
    assert {server: held[0].address.port for server, held in made.where("layer", "skip", "rpyc").items()} == {
        0: 1,
        1: 2,
    }
    assert made.where("layer", "x", "grpc") == {0: ((epochs[0], A["grpc"]),)}
    for partition, tensor, transport in (("other", "x", "grpc"), ("layer", "y", "grpc"), ("layer", "x", "none")):
        assert made.where(partition, tensor, transport) == {}


def test_the_holders_of_a_partition_are_those_that_reported_it(clock: Clock) -> None:
    made = leases(clock, replicas=2)
    epochs = [made.take(addresses).epoch for addresses in (A, B, C, D)]
    for epoch in epochs[:3]:
        made.report(epoch, "p", [])
    found = made.who("p", "grpc")
    assert {server: [epoch for epoch, _ in held] for server, held in found.items()} == {
        0: [epochs[0], epochs[2]],
        1: [epochs[1]],
    }
