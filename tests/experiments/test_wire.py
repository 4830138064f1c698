"""Bytes on the wire: the counter against a known payload, over every transport."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import pytest

import transports
from cluster.model_servers import selection
from experiments.measure import wire
from experiments.spec.experiment import Cell
from transports import Connection, Message

REMOTE = [name for name in transports.NAMES if transports.kind(name).crosses_network]
COMPRESSING = ("rpyc",)
WRITTEN = {"rest": ("json-b64", 4 / 3)}
"""Transport -> a codec that expands every byte alike, and the factor; "" and 1 for other transports."""


MOST = 300
"""The most calls until one has the loopback interface to itself; the interface counts other programs' bytes, too."""


def least(cell: Cell, connection: Connection, message: Message, below: float) -> float:
    """The fewest bytes of a call, out of thirty calls or more, until they are below `below`: other programs only add.

    The first call does not count, since it sets up the connection.
    """
    connection.call(message, 30)
    found = math.inf
    for number in range(MOST):
        if number >= 30 and found < below:
            break
        crossed = wire.counting(cell)
        connection.call(message, 30)
        found = min(found, crossed())
    return found


@pytest.mark.alone
@pytest.mark.skipif(math.isnan(wire.sent()), reason="the loopback interface has no counters here")
@pytest.mark.parametrize("name", REMOTE)
def test_the_wire_bytes_are_the_payload_and_little_more(name: str) -> None:
    """In both directions: noise, which zlib cannot compress; zeros, which it can; and an empty message."""
    made = transports.make(name)
    codec, factor = WRITTEN.get(name, ("", 1))
    noise = np.random.default_rng(0).integers(0, 256, 400_000, np.uint8)
    with (
        made.serve(lambda message: message, "127.0.0.1", 0, 2) as server,
        made.connect(server.address, codec) as connection,
    ):
        payload = 2 * factor * noise.nbytes
        most = 0.1 * payload if name in COMPRESSING else 1.1 * payload
        nothing = least(Cell(name), connection, Message("echo"), 4_000)
        large = least(Cell(name), connection, Message("echo", {}, {"x": noise}), 1.1 * payload)
        zeros = least(Cell(name), connection, Message("echo", {}, {"x": np.zeros_like(noise)}), most)
    assert 20 < nothing < 4_000
    assert payload < large < 1.1 * payload
    assert (zeros < most) if name in COMPRESSING else payload < zeros < most


def test_none_has_no_wire_bytes_and_overlapping_requests_no_figure() -> None:
    assert wire.counting(Cell("none"))() == 0
    assert wire.counting(Cell("none", concurrency=3))() == 0
    assert math.isnan(wire.counting(Cell("grpc", concurrency=3))())


def test_messages_over_unix_sockets_are_not_counted() -> None:
    """The loopback interface does not see them: it would count only other traffic."""
    assert math.isnan(wire.counting(Cell("unix"))())


@pytest.mark.alone
@pytest.mark.skipif(math.isnan(wire.sent()), reason="the loopback interface has no counters here")
@pytest.mark.parametrize("engine", selection.INTERFACES)
def test_over_none_calls_to_a_model_server_are_counted(engine: str) -> None:
    made = transports.make("rest")
    cell = Cell("none", "submodel", engine=engine)
    with (
        made.serve(lambda message: message, "127.0.0.1", 0, 2) as server,
        made.connect(server.address, "json") as connection,
    ):
        assert least(cell, connection, Message("echo"), 4_000) > 20
    assert math.isnan(wire.counting(replace(cell, concurrency=2))())


@pytest.mark.parametrize("found", [{}, {"eth0": psutil.net_io_counters()}, OSError("no /proc")])
def test_without_a_counter_the_figure_is_nan(found: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def counters(**_: object) -> Any:
        if isinstance(found, OSError):
            raise found
        return found

    monkeypatch.setattr(psutil, "net_io_counters", counters)
    assert math.isnan(wire.counting(Cell())())
