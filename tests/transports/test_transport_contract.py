"""The promises of `transports.base` about messages and errors, over every transport in every codec."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import transports
from experiments.sizes import echo
from tests.transports.conftest import HOST, Case
from transports import Address, Limits, Message
from transports.base import DTYPES
from transports.errors import (
    MalformedMessage,
    MessageTooLarge,
    RemoteError,
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
    for _ in range(2):  # the connection stays usable
        with pytest.raises(WireError.kinds[kind], match="stage 'a' has no tensor 'è'"):
            connection.call(Message("x"), 5)


def test_an_unexpected_exception_arrives_without_its_text(any_transport: Case) -> None:
    def fail(message: Message) -> Message:
        raise FileNotFoundError("/secret/weights.keras")

    connection = any_transport.connect(any_transport.serve(fail).address)
    with pytest.raises(RemoteError, match="FileNotFoundError") as caught:
        connection.call(Message("x"), 5)
    assert not any(word in str(caught.value) for word in ("secret", "Traceback", __file__))


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
    """The library's own limit refuses such frames, and not the limit of the payload."""
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
    """A chain of servers, each with one worker: a nested call needs no worker of its caller."""
    address = any_transport.serve(lambda message: Message("end", {}, message.tensors)).address
    for _ in range(4):
        address = any_transport.serve(_caller_of(any_transport, address), workers=1).address
    reply = any_transport.connect(address).call(Message("x", {}, {"x": COUNT}), 5)
    assert (reply.method, list(reply.tensors["x"])) == ("end", list(COUNT))


def _caller_of(case: Case, address: Address) -> transports.Handler:
    connection = case.connect(address)
    return lambda message: connection.call(message, 5)


def test_an_unknown_codec_is_refused_with_the_valid_ones(remote_transport: Case) -> None:
    transport = transports.load(remote_transport.name)(Limits())
    with pytest.raises(UsageError, match=", ".join(transport.codecs)):
        transport.connect(Address(HOST, 1), "pickle")
