"""How the two RPyC transports differ, read from live connections; and what neither lets a peer do."""

from __future__ import annotations

import socket
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
import rpyc
from rpyc.core.channel import Channel
from rpyc.core.consts import STREAM_CHUNK

import transports
from tests.lateness import in_time
from tests.transports.conftest import HOST
from transports import Limits, Message, brine_codec
from transports.errors import ConnectError, MessageTooLarge, RemoteError
from transports.limits import ENVELOPE
from transports.listener import Listener
from transports.rpyc_ends import RpycConnection, converse
from transports.rpyc_stream import BoundedChannel
from transports.rpyc_transport import RpycStock, RpycTuned

NAMES = [name for name in transports.NAMES if "rpyc" in transports.kind(name).libraries]


@contextmanager
def both_ends(kind: type[RpycStock]) -> Iterator[tuple[RpycConnection, BoundedChannel]]:
    """A client's connection, and the channel at the server's end of it."""
    accepted: list[BoundedChannel] = []

    class Watched(kind):  # type: ignore[misc, valid-type]
        def channel(self, sock: socket.socket) -> BoundedChannel:
            accepted.append(super().channel(sock))
            return accepted[-1]

    with ExitStack() as stack:
        server = stack.enter_context(Watched().serve(lambda message: message, HOST, 0, 2))
        connection = stack.enter_context(kind().connect(server.address))
        assert isinstance(connection, RpycConnection)
        connection.call(Message("x"), 5)
        yield connection, accepted[0]


@pytest.mark.parametrize(
    ("kind", "compress", "nodelay", "chunk"),
    [(RpycStock, True, False, STREAM_CHUNK), (RpycTuned, False, True, 16 * 2**20)],
)
def test_the_settings_hold_at_both_ends(kind: type[RpycStock], compress: bool, nodelay: bool, chunk: int) -> None:
    with both_ends(kind) as (connection, accepted):
        for channel in (connection.channel, accepted):
            assert channel.compress is compress
            assert chunk == channel.stream.MAX_IO_CHUNK
            assert bool(channel.stream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)) is nodelay
            assert Channel.COMPRESSION_THRESHOLD == channel.COMPRESSION_THRESHOLD == 3000
            assert Channel.COMPRESSION_LEVEL == channel.COMPRESSION_LEVEL == 1


@pytest.fixture(params=NAMES)
def kind(request: pytest.FixtureRequest) -> type[RpycStock]:
    found = transports.load(request.param)
    assert issubclass(found, RpycStock)
    return found


def test_a_call_is_one_round_trip(kind: type[RpycStock]) -> None:
    frames: list[int] = []

    class Counted(kind):  # type: ignore[misc, valid-type]
        def channel(self, sock: socket.socket) -> BoundedChannel:
            channel = super().channel(sock)
            receive = channel.__class__.recv

            class Counting(type(channel)):  # type: ignore[misc]
                def recv(self) -> object:
                    frame = receive(self)
                    frames.append(len(frame))
                    return frame

            return Counting(channel.stream, channel.compress, channel.limit)

    with kind().serve(lambda message: message, HOST, 0, 2) as server, Counted().connect(server.address) as connection:
        frames.clear()
        connection.call(Message("x", {}, {"x": np.arange(5.0)}), 5)
        assert len(frames) == 1


@pytest.fixture
def plain(kind: type[RpycStock]) -> Iterator[rpyc.Connection]:
    """RPyC's own connection, as a peer that does not keep to our rules would use it."""
    with kind().serve(lambda message: message, HOST, 0, 2) as server:
        connection = rpyc.connect(*server.address, config={"sync_request_timeout": 30})
        yield connection
        connection.close()


@pytest.mark.parametrize("name", ["_handler", "__class__", "__dict__", "__init__", "get_attr", "on_connect"])
def test_a_peer_reaches_nothing_but_the_one_method(plain: rpyc.Connection, name: str) -> None:
    with pytest.raises(AttributeError):
        plain.sync_request(rpyc.core.consts.HANDLE_GETATTR, plain.root, name)
    with pytest.raises(AttributeError):
        plain.sync_request(rpyc.core.consts.HANDLE_SETATTR, plain.root, name, 1)


def test_a_peer_cannot_pickle(plain: rpyc.Connection) -> None:
    with pytest.raises(ValueError, match="pickling is disabled") as caught:
        plain.sync_request(rpyc.core.consts.HANDLE_PICKLE, plain.root, 2)
    assert __file__.rpartition("/tests/")[0] not in str(caught.value)  # the peer sees no traceback


@pytest.mark.parametrize("sent", [np.zeros(3), [1, 2], {"a": 1}, (b"m", bytearray(8))])
def test_a_reference_is_refused_without_a_callback(plain: rpyc.Connection, sent: object) -> None:
    asked: list[object] = []
    plain._dispatch_request = lambda seq, request: asked.append(request)
    with pytest.raises(Exception, match="came by reference, and only values are taken"):
        plain.root.carry(sent)
    assert asked == []
    ping = brine_codec.pack(Message("ping"))
    assert plain.root.carry(ping) == ping


@contextmanager
def peer_that(answers: bytes) -> Iterator[transports.Address]:
    """A peer that accepts one connection, sends `answers` and then nothing more."""
    with socket.create_server((HOST, 0)) as listener, ExitStack() as stack:

        def accept() -> None:
            sock = stack.enter_context(listener.accept()[0])
            sock.sendall(answers)

        thread = threading.Thread(target=accept)
        thread.start()
        yield transports.Address(*listener.getsockname())
        thread.join()


def frame(length: int, flag: int, data: bytes) -> bytes:
    return struct.pack("!LB", length, flag) + data


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param(frame(100, 0, b"half of a frame"), id="stalls inside a frame"),
        pytest.param(frame(2**32 - 1, 0, b"x"), id="claims four gigabytes"),
    ],
)
def test_a_deadline_holds_inside_a_frame(kind: type[RpycStock], answers: bytes) -> None:
    with peer_that(answers) as address:
        start = time.monotonic()
        with in_time(1), pytest.raises(ConnectError, match=r"0\.3 s"):
            kind().connect(address, timeout=0.3)
        assert time.monotonic() - start > 0.2


def test_dialling_counts_and_an_error_names_the_time_that_was_given(
    kind: type[RpycStock], monkeypatch: pytest.MonkeyPatch
) -> None:
    dial = socket.create_connection

    def slowly(*arguments: Any) -> socket.socket:
        time.sleep(1)
        return dial(*arguments)

    monkeypatch.setattr(socket, "create_connection", slowly)
    with peer_that(b"") as address, in_time(1.6), pytest.raises(ConnectError, match=r"no answer within 1\.1 s"):
        kind().connect(address, timeout=1.1)


@pytest.mark.parametrize(
    "answers",
    [frame(4, 7, b"xxxx\n"), frame(4, 1, b"none\n"), frame(4, 0, b"\x02zzz\n"), frame(0, 0, b"\n")],
    ids=["unknown flag", "not compressed", "not brine", "empty"],
)
def test_a_peer_that_is_no_rpyc_is_a_connect_error(kind: type[RpycStock], answers: bytes) -> None:
    with peer_that(answers) as address, pytest.raises(ConnectError, match=str(address.port)):
        kind().connect(address, timeout=1)


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Two connected sockets."""
    with socket.create_server((HOST, 0)) as listener:
        return socket.create_connection(listener.getsockname()), listener.accept()[0]


def test_a_bomb_is_not_inflated() -> None:
    limits = Limits(2**20)
    bomb = zlib.compress(bytes(16 * 2**20), 9)
    assert len(bomb) < limits.max_message
    left, right = tcp_pair()
    with left:
        channel = RpycStock(limits).channel(right)
        left.sendall(frame(len(bomb), 1, bomb + b"\n") + frame(2, 0, b"ok\n"))
        with pytest.raises(MessageTooLarge, match=f"limit of {2**20} bytes from {len(bomb)} bytes"):
            channel.recv()
        assert bytes(channel.recv()) == b"ok"
        channel.close()


def test_a_frame_is_thrown_away_without_being_held(kind: type[RpycStock]) -> None:
    left, right = tcp_pair()
    channel = kind(Limits(1000)).channel(right)
    size = 1000 + ENVELOPE + 1
    with left:
        sender = threading.Thread(
            target=left.sendall, args=(frame(size, 0, bytes(size) + b"\n") + frame(2, 0, b"ok\n"),)
        )
        sender.start()
        with pytest.raises(MessageTooLarge, match=rf"{size} bytes is above the limit of 1000 bytes"):
            channel.recv()
        assert bytes(channel.recv()) == b"ok"
        sender.join()
        channel.close()


def test_an_answer_that_is_no_answer_drops_the_connection(kind: type[RpycStock]) -> None:
    class OddService(rpyc.Service):  # type: ignore[misc]
        def exposed_carry(self, request: object) -> object:
            raise KeyError("odd")

    server = Listener(lambda sock: converse(OddService(), kind().channel(sock)), transports.Address(HOST, 0), 5)
    with kind().connect(server.address) as connection:
        with pytest.raises(RemoteError, match="KeyError"):
            connection.call(Message("x"), 2)
        assert connection.closed
    server.close()
