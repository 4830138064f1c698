"""Echoes of libraries alone, and their place beside this project's transports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import transports
from experiments.sizes import __main__ as sizes
from experiments.sizes import echo
from experiments.sizes import report as sizes_report
from experiments.sizes.bare import BARE, BareConnection
from transports import Message


@pytest.mark.parametrize("size", [0, 1, 70_000])
@pytest.mark.parametrize("name", BARE)
def test_a_bare_echo_returns_the_tensor(name: str, size: int) -> None:
    sent = np.random.default_rng(0).standard_normal((size, 2), dtype=np.float32)
    with echo.process(name) as (addresses, _), BareConnection(name, addresses[name]) as connection:
        for _ in range(2):
            answer = connection.call(Message("echo", {}, {"x": sent}), 30).tensors["x"]
            assert answer.dtype == sent.dtype
            np.testing.assert_array_equal(answer, sent)


def test_each_transport_is_compared_with_its_library_alone(tmp_path: Path) -> None:
    words = ["--bare", "--codec", "raw", "--transport", "rpyc-tuned,grpc", "--sizes", "0.004,0.02", "--repeats", "2"]
    assert sizes.main([*words, "--longest", "8000", "--out", str(tmp_path / "out")]) == 0
    frame = sizes_report.read(tmp_path / "out")
    assert {*frame["transport"]} == {"grpc", "rpyc-tuned", "bare-grpc-stub", "bare-rpyc-tuned"}
    text = (tmp_path / "out" / "report.md").read_text()
    section = text.partition("## Beside each library alone")[2]
    assert "RPyC tuned / bare-rpyc-tuned" in section
    assert "gRPC unary / bare-grpc-stub" in section
    assert "gRPC stream /" not in section
    before = (tmp_path / "out" / "report.md").read_bytes()
    assert sizes_report.build(tmp_path / "out").read_bytes() == before


def test_every_compared_transport_exists_or_is_announced() -> None:
    announced = {"tcp", "grpc-tuned"}
    named = {name for bare in BARE.values() for name in bare.compared}
    assert named <= {*transports.NAMES} | announced
