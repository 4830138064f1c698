"""The promises of `transports.base` about deadlines, workers and the end of servers and connections."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

import transports
from experiments.sizes import echo
from tests.lateness import in_time
from tests.transports.conftest import Case, dialled, listening
from transports import Message
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    ResourceExhausted,
)


def test_a_deadline_holds_while_the_handler_runs(remote_transport: Case, ping: Message) -> None:
    release = threading.Event()
    server = remote_transport.serve(lambda message: (release.wait(10), message)[1])
    connection = remote_transport.connect(server.address)
    start = time.monotonic()
    with in_time(1), pytest.raises(DeadlineExceeded):
        connection.call(ping, 0.2)
    assert time.monotonic() - start > 0.15
    release.set()


@pytest.mark.parametrize("size", [10, 12 * 2**20], ids=["that says nothing", "that takes nothing"])
def test_a_deadline_holds_against_a_frozen_process(remote_transport: Case, size: int) -> None:
    if remote_transport.codec != transports.load(remote_transport.name).codecs[0]:
        pytest.skip("the wait is long, and what no peer reads is the same in every codec")
    with echo.process(remote_transport.name) as (found, child):
        connection = remote_transport.connect(found[remote_transport.name])
        message = Message("x", {}, {"x": np.random.default_rng(0).random(size // 8 + 1)})
        start = time.monotonic()
        connection.call(message, 20)
        usual = time.monotonic() - start  # the deadline takes effect only after the message is written
        os.kill(child.pid, signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)
        try:
            with in_time(2 + usual), pytest.raises(DeadlineExceeded):
                connection.call(message, 0.5)
            connection.close()
        finally:
            os.kill(child.pid, signal.SIGCONT)


def test_a_call_beyond_the_workers_is_refused_at_once(remote_transport: Case, ping: Message) -> None:
    begun, release = threading.Semaphore(0), threading.Event()

    def hold(message: Message) -> Message:
        begun.release()
        assert release.wait(10)
        return message

    server = remote_transport.serve(hold, workers=2)
    with ThreadPoolExecutor(2) as threads:
        held = [threads.submit(remote_transport.connect(server.address).call, ping, 10) for _ in range(2)]
        assert all(begun.acquire(timeout=5) for _ in held)
        connection = remote_transport.connect(server.address)
        with in_time(1):
            for _ in range(5):
                with pytest.raises(ResourceExhausted, match="2 workers"):
                    connection.call(ping, 5)
        release.set()
        assert [future.result() for future in held] == [ping, ping]
    assert connection.call(ping, 5) == ping


def test_one_worker_is_enough_for_one_caller(remote_transport: Case, ping: Message) -> None:
    connection = remote_transport.connect(remote_transport.serve(lambda message: message, workers=1).address)
    for _ in range(200):
        assert connection.call(ping, 5) == ping


def test_a_closed_server_is_lost(any_transport: Case, ping: Message) -> None:
    server = any_transport.serve(lambda message: message)
    connection = any_transport.connect(server.address)
    connection.call(ping, 5)
    server.close()
    with pytest.raises(ConnectionLost):
        connection.call(ping, 5)
    assert connection.closed
    with pytest.raises(ConnectionLost):
        connection.call(ping, 5)
    with pytest.raises(ConnectError, match=str(server.address.port)):
        any_transport.connect(server.address)


def test_a_server_closed_during_a_call_is_lost(remote_transport: Case, ping: Message) -> None:
    begun, release = threading.Event(), threading.Event()

    def hold(message: Message) -> Message:
        begun.set()
        assert release.wait(60)
        return message

    server = remote_transport.serve(hold)
    connection = remote_transport.connect(server.address)
    with ThreadPoolExecutor(2) as threads:
        call = threads.submit(connection.call, ping, 60)
        assert begun.wait(20)
        closing = threads.submit(server.close)
        with in_time(3), pytest.raises(ConnectionLost):
            call.result()
        release.set()
        closing.result(20)


def test_draining_sends_the_last_answer(remote_transport: Case) -> None:
    done, big = threading.Event(), np.random.default_rng(0).integers(0, 256, 2**23, np.uint8)

    def give(message: Message) -> Message:
        done.set()
        return Message("big", {}, {"x": big})

    server = remote_transport.serve(give)
    connection = remote_transport.connect(server.address)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(connection.call, Message("x"), 20)
        assert done.wait(20)
        server.drain(20)
        server.close()
        assert np.array_equal(call.result().tensors["x"], big)
    with pytest.raises(ConnectError):
        remote_transport.connect(server.address)


def test_an_idle_server_drains_at_once(any_transport: Case, ping: Message) -> None:
    server = any_transport.serve(lambda message: message)
    connection = any_transport.connect(server.address)
    connection.call(ping, 5)
    with in_time(1):
        server.drain(20)


def test_a_dead_address_fails_fast(any_transport: Case) -> None:
    server = any_transport.serve(lambda message: message)
    server.close()
    with in_time(1), pytest.raises(ConnectError, match=str(server.address.port)):
        any_transport.connect(server.address)


def test_a_silent_peer_fails_at_the_timeout(remote_transport: Case) -> None:
    silent, address = listening(remote_transport.kind)
    with silent:
        start = time.monotonic()
        with in_time(1.5), pytest.raises(ConnectError, match=str(address.port)):
            remote_transport.connect(address, timeout=0.3)
        assert time.monotonic() - start > 0.2


def test_a_port_in_use_cannot_be_bound(any_transport: Case) -> None:
    server = any_transport.serve(lambda message: message)
    with pytest.raises(ConnectError, match=f"cannot bind .*{server.address.port}"):
        any_transport.serve(lambda message: message, port=server.address.port)


def test_closing_twice_frees_the_port_once(any_transport: Case, ping: Message) -> None:
    server = any_transport.serve(lambda message: message)
    connection = any_transport.connect(server.address)
    connection.call(ping, 5)
    for closed in (connection, connection, server, server):
        closed.close()
    again = any_transport.serve(lambda message: message, port=server.address.port)
    assert any_transport.connect(again.address).call(ping, 5) == ping


def test_nothing_is_left_behind(any_transport: Case, ping: Message) -> None:
    def round_trips() -> None:
        with any_transport.serve(lambda message: message) as server:
            connections = [any_transport.connect(server.address) for _ in range(5)]
            assert all(connection.call(ping, 5) == ping for connection in connections)
            for connection in connections[::2]:  # the server closes the others
                connection.close()
        for connection in connections:
            connection.close()

    round_trips()  # from now on, libraries hold all that they keep for good
    threads, descriptors = set(threading.enumerate()), psutil.Process().num_fds()
    round_trips()
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
        assert not thread.is_alive(), thread
    deadline = time.monotonic() + 20
    while psutil.Process().num_fds() > descriptors and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert psutil.Process().num_fds() <= descriptors


@pytest.mark.parametrize("seed", range(6))
def test_garbage_at_the_port_leaves_it_serving(remote_transport: Case, ping: Message, seed: int) -> None:
    server = remote_transport.serve(lambda message: message)
    connection = remote_transport.connect(server.address)
    noise = np.random.default_rng(seed)
    for size in (1, 5, 64, 5000, 200_000):
        with dialled(remote_transport.kind, server.address) as peer:
            header = [b"", b"\x00\x00\x00\x04\x00", b"\x00\x00\x00\x10\x01", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"][
                seed % 4
            ]
            try:
                peer.sendall(header + noise.bytes(size))
                peer.shutdown(socket.SHUT_WR)
            except OSError:
                continue  # the server has hung up already
    assert connection.call(ping, 5) == ping
    assert remote_transport.connect(server.address).call(ping, 5) == ping
