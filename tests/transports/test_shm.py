"""Shared memory: which segments are used again, how long views live, and that nothing is left when an end dies."""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

import transports
from experiments.sizes import echo
from tests.transports.conftest import HOST, Case
from transports import Address, Connection, Message, frame_codec
from transports.errors import ConnectionLost, ResourceExhausted, UsageError
from transports.limits import Limits
from transports.shm import Shm
from transports.shm_memory import LEAST, LINK, SEGMENTS, ShmConnection, ShmStream, allocate
from transports.shm_socket import ShmSocket
from transports.sockets import Deadline

SIZE = 2**20
ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case("shm")
    with made.stack:
        yield made


def large(value: int = 0, size: int = SIZE) -> Message:
    return Message("echo", {"n": value}, {"x": np.full(size, value % 256, np.uint8)})


def segments(connection: Connection) -> int:
    """The number of segments that this end has made for its requests."""
    assert isinstance(connection, ShmConnection)
    assert isinstance(connection._stream, ShmStream)
    return len(connection._stream._own)


def test_a_segment_is_used_again_once_nobody_reads_it(case: Case) -> None:
    connection = case.echo()
    for number in range(20):
        assert connection.call(large(number), 5).tensors["x"][-1] == number
    assert segments(connection) <= 2


def test_views_keep_their_values_while_later_calls_go_on(case: Case) -> None:
    kept: list[Message] = []
    connection = case.connect(case.serve(lambda message: (kept.append(message), message)[1]).address)
    replies = [connection.call(large(number), 5) for number in range(SEGMENTS + 5)]
    assert segments(connection) == SEGMENTS
    for messages in (kept, replies):
        for number, message in enumerate(messages):
            assert np.all(message.tensors["x"] == number), number
    kept.clear()
    replies.clear()
    gc.collect()
    for _ in range(3):
        connection.call(large(), 5)
    assert connection._stream._own[-1].busy is False  # type: ignore[attr-defined]


def test_views_outlive_the_connection_and_the_server(case: Case) -> None:
    with case.transport().serve(lambda message: message, HOST, 0, 2) as server:
        connection = case.connect(server.address)
        reply = connection.call(large(7), 5)
        connection.close()
    gc.collect()
    assert np.all(reply.tensors["x"] == 7)
    assert not reply.tensors["x"].flags.writeable


def test_a_larger_message_replaces_a_segment(case: Case) -> None:
    connection = case.echo()
    for size in (LEAST, 2 * SIZE, LEAST + 1, 5 * SIZE, 1, 3 * SIZE):
        assert connection.call(large(3, size), 5).tensors["x"].sum() == 3 * size
    assert segments(connection) <= 2


def named_memory() -> set[str]:
    """Files in /dev/shm as Python's own shared memory or this project would name them."""
    return {path.name for path in Path("/dev/shm").iterdir() if path.name.startswith(("psm_", "splitbench"))}


@pytest.mark.parametrize("victim", ["server", "client"])
def test_nothing_is_left_after_the_death_of_an_end(case: Case, victim: str) -> None:
    before = named_memory()
    if victim == "server":
        with echo.process("shm") as (found, child):
            connection = case.connect(found["shm"])
            reply = connection.call(large(5), 5)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            with pytest.raises(ConnectionLost):
                connection.call(large(), 5)
            assert np.all(reply.tensors["x"] == 5)
    else:
        came: list[Message] = []
        server = case.serve(lambda message: (came.append(message), message)[1])
        killed = subprocess.run([sys.executable, "-c", CLIENT, str(server.address)], cwd=ROOT, check=False)
        assert killed.returncode == -signal.SIGKILL
        assert np.all(came[0].tensors["x"] == 9)
        assert case.connect(server.address).call(large(6), 5).tensors["x"][0] == 6
    assert named_memory() <= before


CLIENT = """
import os, signal, sys
import numpy as np
import transports
connection = transports.make("shm").connect(transports.Address.parse(sys.argv[1]))
connection.call(transports.Message("x", {}, {"x": np.full(2**20, 9, np.uint8)}), 5)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_descriptors_and_mappings_end_with_their_connections(case: Case) -> None:
    def visit() -> int:
        with case.transport().serve(lambda message: message, HOST, 0, 2) as server:
            for number in range(10):
                with case.transport().connect(server.address) as connection:
                    connection.call(large(number), 5)
        gc.collect()
        return psutil.Process().num_fds() + sum(
            "splitbench" in mapped.path for mapped in psutil.Process().memory_maps()
        )

    assert visit() >= visit()


def test_a_small_message_needs_no_segment(case: Case) -> None:
    connection = case.echo()
    connection.call(large(1, LEAST - 1), 5)
    assert segments(connection) == 0


def dialled(address: Address) -> ShmSocket:
    made = Shm().dial(address, Deadline.after(20))
    assert isinstance(made, ShmSocket)
    return made


def frame(number: int, size: int) -> bytes:
    described, _ = frame_codec.describe(Message("x", {}, {"x": np.zeros(LEAST, np.uint8)}))
    link = LINK.pack(number, size, 0)
    return frame_codec.HEAD.pack(frame_codec.MAGIC, len(link + described), 0) + link + described


@pytest.mark.parametrize("wrong", ["no segment", "too short", "may shrink", "no memory at all"])
def test_a_segment_that_cannot_be_read_ends_its_connection_alone(case: Case, ping: Message, wrong: str) -> None:
    server = case.serve(lambda message: message)
    known = case.connect(server.address)
    with dialled(server.address) as peer:
        if wrong == "too short":
            peer.outgoing.append(allocate(LEAST // 2)[0])
        elif wrong == "may shrink":
            peer.outgoing.append(os.memfd_create("x"))
        elif wrong == "no memory at all":
            peer.outgoing.append(os.open(os.devnull, os.O_RDONLY))
        peer.sendmsg([frame(1, LEAST)])
        peer.settimeout(20)
        assert socket.socket.recv(peer, 1) == b""
    assert known.call(ping, 5) == ping


def test_a_system_without_such_memory_is_refused_with_what_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create")
    with pytest.raises(UsageError, match=r"transport 'shm' needs memory that processes share: .*; take 'unix'"):
        transports.make("shm")


def test_memory_that_is_too_small_is_refused_with_what_works(case: Case) -> None:
    """The kernel refuses a segment above the limit for files, as it does where there is no memory left."""
    connection = case.echo()
    _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, most))
    try:
        with pytest.raises(UsageError, match="File too large; take 'unix'"):
            Shm(Limits())
        with pytest.raises(ResourceExhausted, match=f"no shared memory for {SIZE} bytes: File too large; take 'unix'"):
            connection.call(large(), 5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def test_tls_is_refused_with_what_works() -> None:
    with pytest.raises(UsageError, match="transport 'shm' has no TLS; leave the TLS files out, or take another one"):
        transports.make("shm", {f"shm.{name}": "file.pem" for name in ("tls_cert", "tls_key", "tls_ca")})
