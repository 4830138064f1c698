"""What all servers over our own sockets share: which peers they accept, and that closing ends every conversation."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.lateness import in_time
from tests.transports.conftest import HOST
from transports import Address, listener
from transports.errors import ConnectError
from transports.listener import Listener
from transports.sockets import DeadlineSocket

PATIENCE = 5


def say_again(sock: DeadlineSocket) -> None:
    """A conversation that echoes all bytes, until the peer is gone or sends "fail"."""
    while said := sock.recv(100):
        if said == b"fail":
            raise KeyError("a conversation went wrong")
        sock.sendall(said)


@pytest.fixture
def server() -> Iterator[Listener]:
    made = Listener(say_again, Address(HOST, 0), PATIENCE)
    yield made
    made.close()


def dialled(server: Listener, stack: ExitStack) -> socket.socket:
    return stack.enter_context(socket.create_connection(server.address, PATIENCE))


def answers(peer: socket.socket, said: bytes) -> bytes:
    """Send `said`, and return the answer: empty if the connection has been closed."""
    try:
        peer.sendall(said)
        return peer.recv(100)
    except ConnectionError:
        return b""


def test_a_peer_beyond_the_most_is_turned_away_until_another_leaves(
    server: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "CONNECTIONS", 3)
    with ExitStack() as stack:
        held = [dialled(server, stack) for _ in range(3)]
        assert [answers(peer, b"here") for peer in held] == [b"here"] * 3
        with in_time(1):
            assert {answers(dialled(server, stack), b"too many") for _ in range(50)} == {b""}
        held.pop().close()
        until_one_is_let_in = iter(lambda: answers(dialled(server, stack), b"room?"), b"room?")
        assert set(until_one_is_let_in) <= {b""}
        assert [answers(peer, b"still") for peer in held] == [b"still"] * 2


def test_a_failed_accept_ends_nothing(server: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    accept, failures = socket.socket.accept, iter([True, True])

    def fail_twice(self: socket.socket) -> tuple[socket.socket, object]:
        taken = accept(self)
        if next(failures, False):
            taken[0].close()
            raise OSError("too many open files")
        return taken

    monkeypatch.setattr(socket.socket, "accept", fail_twice)
    with ExitStack() as stack:
        came = [answers(dialled(server, stack), b"here") for _ in range(5)]
    assert (came.count(b""), came[-1]) == (2, b"here")


def test_a_conversation_that_fails_ends_no_other(server: Listener, caplog: pytest.LogCaptureFixture) -> None:
    with ExitStack() as stack:
        first, second = dialled(server, stack), dialled(server, stack)
        assert (answers(first, b"here"), answers(second, b"fail"), answers(first, b"still")) == (b"here", b"", b"still")
    assert "KeyError: 'a conversation went wrong'" in caplog.text


def test_all_leave_when_it_closes(server: Listener) -> None:
    with ExitStack() as stack:
        silent, talking = dialled(server, stack), dialled(server, stack)
        assert answers(talking, b"here") == b"here"
        server.close()
        server.close()
        assert (silent.recv(1), talking.recv(1)) == (b"", b"")
    assert not [thread for thread in threading.enumerate() if str(server.address.port) in thread.name]
    Listener(say_again, server.address, PATIENCE).close()


def test_draining_does_not_report_peers_as_gone() -> None:
    heard, drained, gone = threading.Event(), threading.Event(), []

    def look(sock: DeadlineSocket) -> None:
        sock.recv(100)
        heard.set()
        assert drained.wait(20)
        gone.append(sock.gone())
        sock.sendall(b"answer")

    server = Listener(look, Address(HOST, 0), PATIENCE)
    with ExitStack() as stack:
        peer = dialled(server, stack)
        peer.sendall(b"question")
        assert heard.wait(20)
        server.drain(0.0)
        drained.set()
        assert peer.recv(100) == b"answer"
    server.close()
    assert gone == [False]


def test_a_port_in_use_is_a_connect_error(server: Listener) -> None:
    with pytest.raises(ConnectError, match=f"cannot bind {server.address}"):
        Listener(say_again, server.address, PATIENCE)
