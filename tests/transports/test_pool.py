"""The connection pool, over every transport."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import transports
from tests.transports.conftest import Case
from transports import Message, Server
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, RemoteError, UsageError
from transports.pool import Pool


@pytest.fixture
def server(any_transport: Case) -> Server:
    return any_transport.serve(lambda message: message, workers=8)


@pytest.fixture
def pool(any_transport: Case) -> Iterator[Pool]:
    with pool_of(any_transport) as pool:
        yield pool


def pool_of(case: Case, mode: str = "pooled") -> Pool:
    return Pool(transports.load(case.name)(), mode, case.codec)


def test_a_pooled_connection_is_used_again(pool: Pool, server: Server, ping: Message) -> None:
    assert [pool.call(server.address, ping, 5)[0] for _ in range(5)] == [ping] * 5
    assert pool.made == 1


def test_per_hop_makes_one_for_every_message(any_transport: Case, server: Server, ping: Message) -> None:
    with pool_of(any_transport, "per-hop") as pool:
        before = pool.made
        assert [pool.call(server.address, ping, 5)[0] for _ in range(5)] == [ping] * 5
        assert pool.made - before == 5


def test_each_thread_gets_its_own_answers(pool: Pool, server: Server) -> None:
    together = threading.Barrier(4)

    def ask(number: int) -> int:
        with pool.connection(server.address) as (connection, _):
            together.wait(5)
            return int(connection.call(Message("x", {}, {"x": np.full(3, number)}), 5).tensors["x"][0])

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == list(range(4))
    made = 1 if pool.transport.shares_links else 4
    assert pool.made == made
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(ask, range(4))) == list(range(4))
    assert pool.made == made


def test_an_error_of_the_handler_costs_no_connection(any_transport: Case, pool: Pool, ping: Message) -> None:
    def fail(message: Message) -> Message:
        raise RemoteError("no")

    address = any_transport.serve(fail).address
    for _ in range(3):
        with pytest.raises(RemoteError):
            pool.call(address, ping, 5)
    assert pool.made == 1


def test_a_peer_that_has_come_back_is_called_at_once(
    any_transport: Case, pool: Pool, server: Server, ping: Message
) -> None:
    with pool.connection(server.address), pool.connection(server.address):
        pass
    server.close()
    again = any_transport.serve(lambda message: message, port=server.address.port)
    if any_transport.kind.addressing == "in-process":  # whose connections do not show that the server has closed
        with pytest.raises(ConnectionLost):
            pool.call(again.address, ping, 5)
    assert [pool.call(again.address, ping, 5)[0] for _ in range(3)] == [ping] * 3
    assert pool.made == (1 if any_transport.kind.shares_links else 3)


def test_idle_connections_of_a_silent_peer_are_dropped_together(remote_transport: Case) -> None:
    begun, over = threading.Event(), threading.Event()

    def hold(message: Message) -> Message:
        begun.set()
        over.wait(10)
        return message

    server = remote_transport.serve(hold)
    with pool_of(remote_transport) as pool:
        with pool.connection(server.address) as (idle, _), pool.connection(server.address):
            pass
        with pytest.raises(DeadlineExceeded):
            pool.call(server.address, Message("x"), 1)
        assert begun.is_set()
        assert idle.closed
        over.set()


def test_unused_connections_are_closed(remote_transport: Case, ping: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers come and go, each at its own port. A shared link does not show that its server has gone."""
    if remote_transport.kind.shares_links:
        monkeypatch.setattr("transports.pool.IDLE", 0.0)
    kept = []
    with pool_of(remote_transport) as pool:
        for _ in range(5):
            server = remote_transport.serve(lambda message: message)
            with pool.connection(server.address) as (made, _):
                assert made.call(ping, 5) == ping
            server.close()
            kept.append(made)
        assert [connection.closed for connection in kept] == [True, True, True, True, False]


def test_the_timeout_covers_connecting_and_calling(remote_transport: Case) -> None:
    release = threading.Event()

    def hold(message: Message) -> Message:
        release.wait(10)
        return message

    address = remote_transport.serve(hold).address
    with pool_of(remote_transport) as pool:
        with pytest.raises(DeadlineExceeded):
            pool.call(address, Message("x"), 1)
        release.set()
        assert pool.call(address, Message("x"), 5)[0] == Message("x")


def test_a_closed_pool_hands_out_nothing(pool: Pool, server: Server, ping: Message) -> None:
    with pool.connection(server.address) as (held, _):
        pool.close()
        assert held.call(ping, 5) == ping
    assert held.closed
    pool.close()
    with pytest.raises(ConnectError, match="pool is closed"):
        pool.call(server.address, ping, 5)


def test_what_is_no_mode_or_codec_is_refused(any_transport: Case) -> None:
    transport = transports.load(any_transport.name)()
    with pytest.raises(UsageError, match="did you mean 'pooled'"):
        Pool(transport, "poled")
    with pytest.raises(UsageError, match=", ".join(transport.codecs)):
        Pool(transport, codec="pickle")
