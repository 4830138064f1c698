"""What `transports.base` promises, asked of every transport in every codec."""

from __future__ import annotations

import math
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
from tests.transports.conftest import HOST, Case
from transports import Address, Limits, Message
from transports.base import DTYPES
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
    ResourceExhausted,
    UsageError,
    WireError,
)

COUNT = np.arange(24)
ARRAYS = {
    **{name: COUNT.reshape(2, 3, 4).astype(dtype) for name, dtype in DTYPES.items()},
    "a number": np.array(2.5, np.float32),
    "a scalar bfloat16": np.array(2.5, DTYPES["bfloat16"]),
    "empty": np.zeros((0, 3), np.float32),
    "empty inside": np.zeros((3, 0, 2), np.int8),
    "transposed": COUNT.reshape(4, 6).T,
    "strided": COUNT.reshape(4, 6)[::2, ::3],
    "reversed": COUNT[::-1],
    "Fortran order": np.asfortranarray(COUNT.reshape(4, 6).astype(np.float64)),
    "broadcast": np.broadcast_to(np.float32(7), (3, 5)),
    "big-endian": COUNT.astype(">f4"),
    "one element": np.array([[3]], np.uint16),
}
FIELDS = {
    "text": "è\n",
    "empty": "",
    "most": 2**63 - 1,
    "least": -(2**63),
    "real": 0.1,
    "infinite": math.inf,
    "yes": True,
}


def same(left: np.ndarray, right: np.ndarray) -> bool:
    """Equal in shape, native dtype and every bit."""
    native = np.asarray(left, DTYPES[left.dtype.name])
    return (native.shape, native.dtype, native.tobytes()) == (
        right.shape,
        right.dtype.newbyteorder("="),
        right.tobytes(),
    )


def test_every_kind_of_tensor_comes_back_as_it_was(any_transport: Case) -> None:
    reply = any_transport.echo().call(Message("echo", {}, ARRAYS), 5)
    assert list(reply.tensors) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert same(array, np.asarray(reply.tensors[name], DTYPES[array.dtype.name])), name


def test_what_arrived_is_a_read_only_view(remote_transport: Case) -> None:
    reply = remote_transport.echo().call(Message("echo", {}, {"x": np.ones(3)}), 5)
    assert not reply.tensors["x"].flags.writeable
    assert not reply.tensors["x"].flags.owndata


def test_fields_come_back_with_their_values_and_exact_types(any_transport: Case) -> None:
    reply = any_transport.echo().call(Message("echo", FIELDS), 5)
    assert reply.fields == FIELDS
    assert {key: type(value) for key, value in reply.fields.items()} == {k: type(v) for k, v in FIELDS.items()}


def test_numpy_scalars_arrive_as_python_scalars(remote_transport: Case) -> None:
    reply = remote_transport.echo().call(
        Message("echo", {"i": np.int64(3), "f": np.float32(0.5), "b": np.bool_(True)}), 5
    )  # type: ignore[dict-item]
    assert {key: (type(value), value) for key, value in reply.fields.items()} == {
        "i": (int, 3),
        "f": (float, 0.5),
        "b": (bool, True),
    }


def test_many_tensors(any_transport: Case) -> None:
    tensors = {f"tensor/{number}:0": np.full(number % 7, number) for number in range(500)}
    reply = any_transport.echo().call(Message("echo", {}, tensors), 5)
    assert all(np.array_equal(reply.tensors[name], tensors[name]) for name in tensors)


def test_another_process_answers(remote_transport: Case) -> None:
    with echo.process(remote_transport.name) as (found, _):
        connection = remote_transport.connect(found[remote_transport.name])
        reply = connection.call(Message("echo", {"n": 1}, {"x": COUNT}), 5)
        connection.close()
    assert reply.fields == {"n": 1}
    assert np.array_equal(reply.tensors["x"], COUNT)


def test_threads_never_get_each_others_answers(any_transport: Case) -> None:
    server = any_transport.serve(lambda message: Message("twice", {}, {"x": message.tensors["x"] * 2}), workers=8)

    def ask(number: int) -> bool:
        connection = any_transport.connect(server.address)
        asked = [np.full(2000 + number, number * 1000 + turn) for turn in range(20)]
        return all(np.array_equal(connection.call(Message("ask", {}, {"x": x}), 10).tensors["x"], x * 2) for x in asked)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(ask, range(8)))


@pytest.mark.parametrize("kind", sorted(WireError.kinds))
def test_an_error_of_the_handler_arrives_as_its_own_type(any_transport: Case, kind: str) -> None:
    def fail(message: Message) -> Message:
        raise WireError.kinds[kind]("stage 'a' has no tensor 'è'")

    connection = any_transport.connect(any_transport.serve(fail).address)
    for _ in range(2):  # and the connection goes on
        with pytest.raises(WireError.kinds[kind], match="stage 'a' has no tensor 'è'"):
            connection.call(Message("x"), 5)


def test_an_unexpected_exception_arrives_without_its_text(any_transport: Case) -> None:
    def fail(message: Message) -> Message:
        raise FileNotFoundError("/secret/weights.keras")

    connection = any_transport.connect(any_transport.serve(fail).address)
    with pytest.raises(RemoteError, match="FileNotFoundError") as caught:
        connection.call(Message("x"), 5)
    assert not any(word in str(caught.value) for word in ("secret", "Traceback", __file__))


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
        usual = time.monotonic() - start  # writing it is done before anything can be seen to take too long
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


def test_who_drains_lets_the_last_answer_out(remote_transport: Case) -> None:
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
    with socket.create_server((HOST, 0)) as silent:
        start = time.monotonic()
        with in_time(1.5), pytest.raises(ConnectError, match=str(silent.getsockname()[1])):
            remote_transport.connect(Address(*silent.getsockname()), timeout=0.3)
        assert time.monotonic() - start > 0.2


def test_a_port_in_use_cannot_be_bound(any_transport: Case) -> None:
    server = any_transport.serve(lambda message: message)
    with pytest.raises(ConnectError, match=f"cannot bind .*{server.address.port}"):
        any_transport.serve(lambda message: message, port=server.address.port)


BIG, SMALL = np.zeros(300_000, np.uint8), np.zeros(100, np.uint8)


@pytest.mark.parametrize(
    ("here", "there", "asked", "answered"),
    [
        pytest.param(100_000, 10**6, BIG, SMALL, id="request above the client's limit"),
        pytest.param(10**6, 100_000, BIG, SMALL, id="request above the server's limit"),
        pytest.param(10**6, 100_000, SMALL, BIG, id="answer above the server's limit"),
        pytest.param(100_000, 10**6, SMALL, BIG, id="answer above the client's limit"),
    ],
)
def test_what_is_too_large_is_refused_with_both_figures(
    any_transport: Case, here: int, there: int, asked: np.ndarray, answered: np.ndarray
) -> None:
    server = any_transport.serve(
        lambda message: Message("x", {}, {"x": answered} if "x" in message.tensors else {}), limit=there
    )
    connection = any_transport.connect(server.address, limit=here)
    for _ in range(2):
        with pytest.raises(MessageTooLarge, match=r"30\d{4}\D.*\b100000\b"):
            connection.call(Message("x", {}, {"x": asked}), 5)
    assert connection.call(Message("x"), 5) == Message("x")


@pytest.mark.parametrize(("here", "there"), [(100_000, 4 * 2**20), (4 * 2**20, 100_000)], ids=["client", "server"])
@pytest.mark.parametrize("bigger", ["request", "answer"])
def test_frames_far_above_the_limit_leave_the_connection_usable(
    remote_transport: Case, here: int, there: int, bigger: str
) -> None:
    """So far that the library's own limit, and not the payload's, is what refuses them."""
    noise = np.random.default_rng(0).integers(0, 255, 3 * 2**20, np.uint8)
    tensors = {"x": noise}
    server = remote_transport.serve(lambda message: Message("x", {}, tensors if message.fields else {}), limit=there)
    connection = remote_transport.connect(server.address, limit=here)
    asked = Message("x", {"big": 1}, tensors if bigger == "request" else {})
    with pytest.raises(MessageTooLarge, match=r"3[12]\d{5}\D.*\b100000\b"):
        connection.call(asked, 5)
    assert connection.call(Message("x"), 5) == Message("x")


REFUSED = {
    "object": ("dtype 'object'", {"bad": np.array([object()])}, {}),
    "str": ("dtype 'str", {"bad": np.array(["text"])}, {}),
    "datetime": ("dtype 'datetime64", {"bad": np.array(["2020-01-01"], "datetime64[s]")}, {}),
    "list": ("must be a numpy array", {"bad": [1.0]}, {}),
    "a field too wide": ("64 bits", {}, {"bad": 2**63}),
    "a list for a field": ("must be a str, int", {}, {"bad": [1]}),
    "no UTF-8": ("UTF-8", {}, {"bad": "\ud800"}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_codec_may_carry_is_refused_by_name(remote_transport: Case, case: str) -> None:
    text, tensors, fields = REFUSED[case]
    bad = Message("x", fields, tensors)  # type: ignore[arg-type]
    server = remote_transport.serve(lambda message: bad if message.method == "answer badly" else message)
    connection = remote_transport.connect(server.address)
    for message in (bad, Message("answer badly")):
        with pytest.raises(MalformedMessage, match=f"'bad'.*{text}"):
            connection.call(message, 5)
    assert connection.call(Message("x"), 5) == Message("x")


def test_a_handler_may_call_on(any_transport: Case) -> None:
    """A chain of servers, each with one worker: a nested call needs none of its caller's."""
    address = any_transport.serve(lambda message: Message("end", {}, message.tensors)).address
    for _ in range(4):
        address = any_transport.serve(_caller_of(any_transport, address), workers=1).address
    reply = any_transport.connect(address).call(Message("x", {}, {"x": COUNT}), 5)
    assert (reply.method, list(reply.tensors["x"])) == ("end", list(COUNT))


def _caller_of(case: Case, address: Address) -> transports.Handler:
    connection = case.connect(address)
    return lambda message: connection.call(message, 5)


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

    round_trips()  # what a library keeps for good, it has now
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
        with socket.create_connection(server.address, 5) as peer:
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


def test_an_unknown_codec_is_refused_with_the_valid_ones(remote_transport: Case) -> None:
    transport = transports.load(remote_transport.name)(Limits())
    with pytest.raises(UsageError, match=", ".join(transport.codecs)):
        transport.connect(Address(HOST, 1), "pickle")
