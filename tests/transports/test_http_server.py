"""What the HTTP server adds to uvicorn: which connections it closes, and how it ends."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.lateness import in_time
from tests.transports.conftest import HOST, Case, assert_hung_up
from transports import Address, Message, http_protocol
from transports.errors import WireError
from transports.http_server import Head, HttpServer, Reply

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LARGE = bytes(32 * 2**20)
"""More bytes than the kernel buffers for a connection whose peer does not read."""


class Large:
    def admit(self, head: Head) -> int:
        return 0

    def answer(self, head: Head, body: bytearray) -> Reply:
        return Reply(200, LARGE)

    def refusal(self, error: WireError) -> Reply:
        raise AssertionError(error)


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer(Large(), Address(HOST, 0), stall=0.5, threads=2) as made:
        yield made


def asking(server: HttpServer, stack: ExitStack) -> socket.socket:
    """A connection on which a request was sent and its answer has begun."""
    peer = stack.enter_context(socket.create_connection(server.address, 20))
    peer.sendall(ASK)
    assert peer.recv(15) == b"HTTP/1.1 200 OK"
    return peer


def test_a_peer_that_does_not_read_its_answer_is_dropped(server: HttpServer) -> None:
    with ExitStack() as stack:
        asking(server, stack)
        with in_time(2):
            server.drain(20)


def test_a_peer_that_reads_slowly_gets_all_of_its_answer(server: HttpServer) -> None:
    """The peer reads a piece of the answer within the time for a piece, and the whole answer in a longer time."""
    with ExitStack() as stack:
        peer, size = asking(server, stack), 0
        while size < len(LARGE) and (piece := peer.recv(2**20)):
            size += len(piece)
            threading.Event().wait(0.02)
        assert size >= len(LARGE)


def test_a_connection_beyond_the_most_is_turned_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "CONNECTIONS", 3)
    with ExitStack() as stack:
        server = stack.enter_context(HttpServer(Large(), Address(HOST, 0), stall=60, threads=2))
        held = [asking(server, stack) for _ in range(3)]
        assert_hung_up([stack.enter_context(socket.create_connection(server.address, 20)) for _ in range(5)])
        held.pop().close()
        until_one_is_let_in = iter(lambda: _is_answered(server), True)
        assert set(until_one_is_let_in) <= {False}


def _is_answered(server: HttpServer) -> bool:
    with ExitStack() as stack:
        try:
            return bool(asking(server, stack))
        except (AssertionError, ConnectionError):
            return False


def test_a_server_whose_callers_wait_for_a_worker_says_that_it_is_ready(ping: Message) -> None:
    case, begun, release = Case("rest"), threading.Event(), threading.Event()

    def hold(message: Message) -> Message:
        begun.set()
        assert release.wait(20)
        return message

    with case.stack, ThreadPoolExecutor(3) as threads:
        server = case.serve(hold, workers=1, when_full="wait")
        calls = [threads.submit(case.connect(server.address).call, ping, 20) for _ in range(3)]
        assert begun.wait(20)
        case.connect(server.address, timeout=2)
        release.set()
        assert [call.result() for call in calls] == [ping] * 3
