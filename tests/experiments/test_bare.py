"""Bare echoes, which use a library alone, and the comparison of this project's transports with them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

import transports
from experiments.sizes import __main__ as sizes
from experiments.sizes import echo
from experiments.sizes import report as sizes_report
from experiments.sizes.bare import BARE, BareConnection
from transports import Address, Message
from transports.errors import ConnectionLost


@pytest.fixture(scope="module")
def addresses() -> Iterator[Mapping[str, Address]]:
    """Name -> address of every bare echo. One process serves them all."""
    with echo.process(*BARE) as (found, _):
        yield found


@pytest.mark.parametrize("size", [0, 1, 70_000])
@pytest.mark.parametrize("name", BARE)
def test_a_bare_echo_returns_the_tensor(name: str, size: int, addresses: Mapping[str, Address]) -> None:
    sent = np.random.default_rng(0).standard_normal((size, 2), dtype=np.float32)
    with BareConnection(name, addresses[name]) as connection:
        for _ in range(2):
            answer = connection.call(Message("echo", {}, {"x": sent}), 30).tensors["x"]
            assert answer.dtype == sent.dtype
            np.testing.assert_array_equal(answer, sent)


def test_the_end_of_the_echo_process_is_an_error_of_one_line() -> None:
    """Each library raises its own error: an `EOFError`, an `OSError` or an `RpcError`."""
    message = Message("echo", {}, {"x": np.ones(4, np.float32)})
    with echo.process(*BARE) as (found, child):
        connections = {name: BareConnection(name, found[name]) for name in BARE}
        for connection in connections.values():
            connection.call(message, 30)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        for name, connection in connections.items():
            with connection, pytest.raises(ConnectionLost) as lost:
                connection.call(message, 30)
            assert str(lost.value).startswith(f"{name}: ")
            assert "\n" not in str(lost.value)


def test_each_transport_is_compared_with_its_library_alone(tmp_path: Path) -> None:
    words = ["--bare", "--codec", "raw,json-b64", "--transport", "rpyc-tuned,grpc,rest", "--sizes", "0.004,0.02"]
    assert sizes.main([*words, "--repeats", "2", "--longest", "8000", "--out", str(tmp_path / "out")]) == 0
    frame = sizes_report.read(tmp_path / "out")
    names = {"grpc", "rpyc-tuned", "rest"}
    assert {*frame["transport"]} == names | {"bare-grpc-stub", "bare-rpyc-tuned", "bare-rest", "bare-rest-b64"}
    text = (tmp_path / "out" / "report.md").read_text()
    section = text.partition("## Beside each library alone")[2]
    heads = {row.split("|")[1].strip() for row in section.splitlines() if row.startswith("| ")}
    pairs = ("RPyC tuned / bare-rpyc-tuned", "gRPC unary / bare-grpc-stub")
    assert {*pairs, "REST json-b64 / bare-rest", "REST json-b64 / bare-rest-b64"} <= heads
    assert "gRPC stream /" not in section
    before = (tmp_path / "out" / "report.md").read_bytes()
    assert sizes_report.build(tmp_path / "out").read_bytes() == before


def test_every_compared_transport_exists() -> None:
    assert {name for bare in BARE.values() for name in bare.compared} <= {*transports.NAMES}


def test_each_codec_of_rest_has_an_echo_with_the_same_body() -> None:
    for codec in transports.kind("rest").codecs:
        assert [name for name, bare in BARE.items() if bare.codecs == (codec,)], codec
