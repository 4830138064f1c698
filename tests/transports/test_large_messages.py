"""Messages around gRPC's well-known limit of 4 MB, of 64 MB and of up to 600 MB, and what is refused above a limit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil
import pytest

import transports
from experiments.sizes import echo
from tests.transports.conftest import Case
from transports import Limits, Message, Transport
from transports.base import Array
from transports.errors import MessageTooLarge, UsageError

MB = 10**6
SIZES = {"3.9 MB": 3_900_000, "4.1 MB": 4_100_000, "64 MB": 64 * MB}
MOST = {"json": 5 * MB}
"""Codec -> bytes above which it is left out. 64 MB as JSON numbers take as long as 64 MB over all other transports
together, and cross in the same way as in base64."""


@pytest.fixture
def case(any_transport: Case, size: int) -> Case:
    if size > MOST.get(any_transport.codec, size):
        pytest.skip(f"{any_transport.codec} is tried up to {MOST[any_transport.codec]} bytes")
    return any_transport


def noise(size: int) -> Array:
    """Bytes that zlib shrinks to less than a tenth: the time of stock RPyC grows with the square of the shrunk size."""
    x = np.zeros(size, np.uint8)
    x[::16] = np.random.default_rng(0).integers(0, 256, x[::16].size, np.uint8)
    return x


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_a_payload_of_exactly_the_limit_comes_back_and_one_byte_more_does_not(case: Case, size: int) -> None:
    server = case.serve(lambda message: message, limit=size)
    near, far = case.connect(server.address, limit=size), case.connect(server.address)
    x = noise(size + 1)
    assert np.array_equal(near.call(Message("x", {}, {"x": x[:-1]}), 60).tensors["x"], x[:-1])
    for connection in (near, far):  # refused by this end, and by the other
        with pytest.raises(MessageTooLarge, match=rf"{size + 1}\D.*\b{size}\b"):
            connection.call(Message("x", {}, {"x": x}), 60)
        assert connection.call(Message("x"), 5) == Message("x")


@pytest.mark.parametrize(("here", "there"), [(2, 200), (200, 2)], ids=["client", "server"])
@pytest.mark.parametrize("size", [SIZES["4.1 MB"]], ids=["4.1 MB"])
def test_an_answer_above_a_limit_is_refused(case: Case, size: int, here: int, there: int) -> None:
    """The error says the size and the limit. For a frame that zlib has shrunk, the size is the shrunk size."""
    x = np.zeros(size, np.uint8)
    x[::5] = 1
    server = case.serve(lambda message: Message("x", {}, {"x": x} if message.fields else {}), limit=there * MB)
    connection = case.connect(server.address, limit=here * MB)
    with pytest.raises(MessageTooLarge, match=rf"\d{{5,}}\D.*\b{2 * MB}\b|\b{2 * MB}\b.*\d{{5,}}"):
        connection.call(Message("x", {"big": True}), 60)
    assert connection.call(Message("x"), 5) == Message("x")


LIMIT = 700 * MB


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "size"),
    [("grpc", {}, 300 * MB), ("grpc", {"send": "stream"}, 600 * MB), ("rpyc-tuned", {}, 300 * MB)],
    ids=["grpc-unary", "grpc-stream", "rpyc-tuned"],
)
def test_hundreds_of_megabytes(
    name: str, options: dict[str, str], size: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Messages above the limit that every transport has by default.

    Prints the largest memory that the server held, as a multiple of the payload (`pytest -s` shows it).
    """
    if psutil.virtual_memory().available < 12 * size:
        pytest.skip(f"takes {12 * size / 2**30:.0f} GB of free memory")
    assert size > Limits.max_message
    x = np.arange(size // 4, dtype=np.uint32)
    given = {f"{name}.max_message": str(LIMIT)} | {f"{name}.{key}": value for key, value in options.items()}
    with (
        echo.process(name, options=given) as (found, child),
        _connect(transports.make(name, given), found[name]) as peer,
    ):
        reply = peer.call(Message("echo", {}, {"x": x}), 120)
        assert np.array_equal(reply.tensors["x"], x)
        assert peer.call(Message("echo"), 5) == Message("echo")
        with capsys.disabled():
            print(f" server {_most(child.pid) / size:.1f} x payload", end="")


def _connect(transport: Transport, address: transports.Address) -> transports.Connection:
    return transport.connect(address)


def _most(pid: int) -> int:
    """The largest resident size that a process has had, in bytes (VmHWM; 0 where the system does not keep it)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except OSError:
        return 0


@pytest.mark.parametrize("options", [{"max_message": str(2**31)}, {"stall": "0"}, {"stall": "nan"}, {"stall": "inf"}])
def test_a_limit_that_is_none_is_refused(any_transport: Case, options: dict[str, str]) -> None:
    key, value = next(iter(options.items()))
    with pytest.raises(UsageError, match=rf"--option {any_transport.name}\.{key}: .*; valid: "):
        transports.make(any_transport.name, {f"{any_transport.name}.{key}": value})


@pytest.mark.parametrize(("key", "value"), [("send", "streem"), ("chunk", "1000"), ("chunk", str(2**27))])
def test_an_option_of_grpc_that_is_none_is_refused(key: str, value: str) -> None:
    with pytest.raises(UsageError, match=rf"--option grpc\.{key}: .*valid: "):
        transports.make("grpc", {f"grpc.{key}": value})
