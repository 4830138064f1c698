"""The relay between real sockets, checked against its own arithmetic.

Times on a busy machine are only ever too long. So each lower bound holds for every sample, and each upper bound for the
best of some.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import threading
import time
from collections.abc import Iterator

import psutil
import pytest

from cluster.links.link import Link, arithmetic
from cluster.links.relay import Relay
from tests.cluster.links.traffic import PATIENCE, Receiver, asked, connect, drain, echo, opened, receive, relay, server
from transports.address import Address
from transports.errors import UsageError

EARLY = 1e-4
"""Seconds by which a message may seem to arrive early: reading two clocks takes time."""
MISFIT = 1.03
"""Most that the best of some samples may take, in parts of what the arithmetic says."""
MOST = 20
"""Most samples."""


def attempts(samples: list[float], seconds: float) -> Iterator[int]:
    """Three attempts, and on a busy machine, which delays messages, further ones until the best of `samples` fits."""
    for number in range(MOST):
        if number >= 3 and min(samples) < seconds * MISFIT:
            return
        yield number


def fits(link: str, size: int, samples: list[float]) -> None:
    seconds = arithmetic(Link.parse(link), size)
    assert min(samples) > seconds - EARLY
    assert min(samples) < seconds * MISFIT


@pytest.mark.parametrize(
    ("link", "size"),
    [
        ("a<->b rtt:40ms,bandwidth:50Mbit", 2_000_000),
        ("a->b delay:5ms,bandwidth:5Mbit", 100_000),
        ("a<->b bandwidth:200Mbit", 2_000_000),
        ("a<->b rtt:200ms", 1_000),
    ],
)
def test_a_message_takes_what_the_arithmetic_says(link: str, size: int) -> None:
    receiver, message, samples = Receiver(size), bytes(size), list[float]()
    with relay(link) as through, server(receiver) as address, opened(through, address, receiver) as sock:
        for _ in attempts(samples, arithmetic(Link.parse(link), size)):
            start = time.monotonic()
            sock.sendall(message)
            samples.append(receiver.moments(1)[0] - start)
    fits(link, size, samples)


def test_messages_overlap_while_they_travel() -> None:
    receiver = Receiver(100)
    with relay("a<->b rtt:200ms") as through, server(receiver) as address, opened(through, address, receiver) as sock:
        samples = list[float]()
        for _ in attempts(samples, arithmetic(Link.parse("a<->b rtt:200ms"), 100)):
            start = time.monotonic()
            for _ in range(10):
                sock.sendall(bytes(100))
            samples.append(receiver.moments(10)[-1] - start)
    fits("a<->b rtt:200ms", 100, samples)


def test_an_answer_takes_a_round_trip() -> None:
    with relay("a<->b rtt:40ms") as through, server(echo) as address, connect(through.reach("a", address)) as sock:
        samples = [asked(sock) for _ in range(8)]
    assert samples[0] > 0.08 - 0.005  # the handshake takes a round trip, of which connect took a part
    assert 0.04 - EARLY < min(samples[1:]) < 0.04 * MISFIT


def test_the_first_bytes_of_a_server_follow_the_handshake() -> None:
    samples = list[float]()
    with relay("a<->b rtt:40ms") as through, server(lambda sock: sock.sendall(b"!")) as address:
        reached = through.reach("a", address)
        for _ in attempts(samples, 0.08):
            start = time.monotonic()
            with connect(reached) as sock:
                assert sock.recv(1) == b"!"
            samples.append(time.monotonic() - start)
    assert 0.08 - EARLY < min(samples) < 0.08 * MISFIT


def test_a_direction_without_a_link_takes_no_time() -> None:
    with relay("b->a delay:40ms") as through, server(echo) as address, connect(through.reach("a", address)) as sock:
        asked(sock)
        samples = list[float]()
        for _ in attempts(samples, 0.04):
            samples.append(asked(sock))
    assert 0.04 - EARLY < min(samples) < 0.04 * 1.05


def test_connections_share_the_bandwidth_of_their_direction_and_take_turns() -> None:
    size, link = 500_000, "a<->b bandwidth:50Mbit"
    receiver, ends, firsts = Receiver(size), list[float](), []
    with relay(link) as through, server(receiver) as address, contextlib.ExitStack() as stack:
        socks = [stack.enter_context(opened(through, address, receiver)) for _ in range(2)]
        for _ in attempts(ends, arithmetic(Link.parse(link), 2 * size)):
            start = time.monotonic()
            for sock in socks:
                sock.sendall(bytes(size))
            first, last = receiver.moments(2)
            firsts.append(first - start)
            ends.append(last - start)
    fits(link, 2 * size, ends)
    assert max(firsts) > 0.7 * min(ends)


def test_the_directions_do_not_share_their_bandwidth() -> None:
    size, link = 1_000_000, "a<->b bandwidth:50Mbit"
    with relay(link) as through, server(echo) as address, connect(through.reach("a", address)) as sock:
        samples = []
        for _ in range(3):
            start = time.monotonic()
            sock.sendall(bytes(size))
            receive(sock, size)
            samples.append(time.monotonic() - start)
    assert min(samples) < 1.2 * arithmetic(Link.parse(link), size)


def test_content_is_unchanged_in_both_directions() -> None:
    content = random.Random(1).randbytes(3_000_001)
    link = "a<->b rtt:10ms,jitter:5ms,bandwidth:500Mbit"
    with relay(link) as through, server(echo) as address, connect(through.reach("a", address)) as sock:
        threading.Thread(target=sock.sendall, args=(content,), daemon=True).start()
        assert hashlib.sha256(receive(sock, len(content))).digest() == hashlib.sha256(content).digest()
        assert through.carried("a") == through.carried("b") == len(content)


def test_the_end_of_a_request_travels_behind_it_and_the_answer_comes_back() -> None:
    def answer(sock: socket.socket) -> None:
        sock.sendall(b"%d bytes" % len(receive(sock, 2**30)))

    link = "a<->b rtt:20ms,bandwidth:100Mbit"
    with relay(link) as through, server(answer) as address, connect(through.reach("a", address)) as sock:
        sock.sendall(bytes(300_000))
        sock.shutdown(socket.SHUT_WR)
        assert receive(sock, 2**30) == b"300000 bytes"


def test_a_refusal_closes_the_connection_after_a_round_trip() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refused = Address(*listener.getsockname())
    with relay("a<->b rtt:40ms") as through:
        start = time.monotonic()
        with connect(through.reach("a", refused)) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        assert time.monotonic() - start > 0.04 - EARLY


@pytest.mark.parametrize("failing", ["caller", "server"])
def test_a_reset_closes_the_other_end(failing: str) -> None:
    ended, hard = threading.Event(), b"\1\0\0\0\0\0\0\0"

    def answer(sock: socket.socket) -> None:
        sock.recv(1)
        if failing == "server":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
            return
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(1) == b"", "no reset"
            return
        ended.set()

    with relay("a<->b rtt:2ms") as through, server(answer) as address:
        sock = connect(through.reach("a", address))
        sock.sendall(b"?")
        if failing == "server":
            with sock, pytest.raises(ConnectionResetError):
                sock.recv(1)
        else:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, hard)
            sock.close()
            assert ended.wait(PATIENCE)


def test_a_slow_reader_blocks_only_its_own_connection() -> None:
    """A connection whose reader reads nothing is full; another one of the same direction passes on, and so does it
    once its reader reads."""
    size, ready = 200_000_000, threading.Event()

    def answer(sock: socket.socket) -> None:
        ready.wait(PATIENCE)
        sock.sendall(b"%d" % drain(sock, size))

    with (
        relay("a->b delay:1ms") as through,
        server(answer) as slow,
        server(echo) as quick,
        connect(through.reach("a", slow)) as full,
        connect(through.reach("a", quick)) as sock,
    ):
        sender = threading.Thread(target=full.sendall, args=(bytes(size),), daemon=True)
        sender.start()
        sender.join(0.5)
        assert sender.is_alive()
        sock.sendall(bytes(10**5))
        assert drain(sock, 10**5) == 10**5
        assert sender.is_alive()
        ready.set()
        assert full.recv(100) == b"%d" % size


def test_a_small_message_does_not_wait_for_all_of_a_large_one() -> None:
    small, large = Receiver(100), Receiver(1_000_000)
    with (
        relay("a->b rate:20Mbit") as through,
        server(small) as to_small,
        server(large) as to_large,
        opened(through, to_small, small) as urgent,
        opened(through, to_large, large) as bulk,
    ):
        samples = []
        for _ in range(3):
            bulk.sendall(bytes(large.size))
            start = time.monotonic()
            urgent.sendall(bytes(small.size))
            samples.append(small.moments(1)[0] - start)
            large.moments(1)
    assert min(samples) < 0.1, "the large message takes 0.4 s"


@pytest.mark.alone
@pytest.mark.skipif("lo" not in psutil.net_io_counters(pernic=True), reason="the loopback interface has another name")
def test_half_of_what_crosses_the_loopback_interface_is_repeated() -> None:
    receiver, shares = Receiver(3_000_000), []
    with relay("a<->b rtt:1ms,bandwidth:1Gbit") as through, server(receiver) as address:
        for _ in range(4):
            crossed, repeated = psutil.net_io_counters(pernic=True)["lo"].bytes_recv, through.repeated_bytes()
            opened(through, address, receiver).close()
            crossed = psutil.net_io_counters(pernic=True)["lo"].bytes_recv - crossed
            shares.append((through.repeated_bytes() - repeated) / crossed)
    assert max(shares) == pytest.approx(0.5, abs=0.005)


def test_servers_can_be_reached_while_the_relay_runs_and_until_it_is_closed() -> None:
    with relay("a<->b rtt:1ms") as through, server(echo) as address:
        for source in ("a", "b", "a"):
            with connect(through.reach(source, address)) as sock:
                asked(sock)
        last = connect(through.reach("a", address))
    with last, pytest.raises(ConnectionResetError):
        last.recv(1)
    with pytest.raises(UsageError, match="closed"):
        through.reach("a", address)


def test_a_process_can_serve_in_its_own_thread() -> None:
    link = Link.parse("a->b delay:1ms")
    through = Relay({("a", "b"): link}, 1)
    with server(echo) as address, connect(through.reach("a", address)) as sock:
        sock.sendall(b"?")
        serving = threading.Thread(target=through.serve)
        serving.start()
        assert sock.recv(1) == b"?"
        through.close()
        serving.join(PATIENCE)
        assert not serving.is_alive()


def test_a_relay_that_never_ran_can_be_closed() -> None:
    through = Relay({("a", "b"): Link("a", "b", False)}, 1)
    address = through.reach("a", Address("127.0.0.1", 1))
    through.close()
    through.close()
    through.serve()
    with pytest.raises(ConnectionRefusedError):
        connect(address)


@pytest.mark.parametrize("directions", [[], [("a", "a")], [("a", "b"), ("b", "c")]])
def test_a_relay_serves_two_hosts(directions: list[tuple[str, str]]) -> None:
    with pytest.raises(UsageError, match="two hosts"):
        Relay(dict.fromkeys(directions, Link("a", "b")), 1)


def test_unknown_hosts_and_names_are_refused() -> None:
    with relay("a<->b rtt:1ms") as through:
        with pytest.raises(UsageError, match="no host 'c'; valid: a, b"):
            through.reach("c", Address("127.0.0.1", 1))
        with pytest.raises(UsageError, match="cannot relay"):
            through.reach("a", Address("name.invalid", 1))
