"""More clients than a server has room for, over every transport, with both ways of being full."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest

import transports
from tests.faults.common import DEADLINE, PATIENCE, REMOTE, at_once
from tests.faults.server import WORKERS, echoing
from transports import Message
from transports.errors import ConnectError, DeadlineExceeded, ResourceExhausted
from transports.pool import Pool

CLIENTS, ROUNDS = 64, 5
SIZE = 50_000
"""Bytes of a message."""
BUSY = 0.002
"""Seconds that a message keeps one of the server's four workers."""
GROWTH = 192 * 2**20
"""Bytes that the server may take: a number in JSON takes 40 for a moment, and so does each of all clients' messages."""


@pytest.mark.parametrize("when_full", ["refuse", "wait"])
@pytest.mark.parametrize("name", REMOTE)
def test_every_answer_is_right_or_refused(name: str, when_full: str) -> None:
    options = {f"{name}.when_full": when_full}
    with echoing(name, options=options) as (found, pid), Pool(transports.make(name)) as pool:

        def ask(number: int) -> str:
            noise = np.random.default_rng(number).integers(0, 256, SIZE, np.uint8)
            message = Message("echo", {"n": number, "wait": BUSY}, {"x": noise})
            try:
                reply, _ = pool.call(found[name], message, PATIENCE)
            except ResourceExhausted:
                return "refused"
            return "right" if reply.fields["n"] == number and np.array_equal(reply.tensors["x"], noise) else "wrong"

        server = psutil.Process(pid)
        assert ask(0) == "right"
        before = server.memory_info().rss
        with ThreadPoolExecutor(CLIENTS) as clients:
            outcomes = Counter(clients.map(ask, range(CLIENTS * ROUNDS)))
        assert set(outcomes) <= ({"right"} if when_full == "wait" else {"right", "refused"})
        assert outcomes["right"] > 0
        assert server.memory_info().rss - before < GROWTH
        assert ask(0) == "right"


def test_what_waited_for_a_worker_beyond_its_deadline_is_not_begun() -> None:
    """Of the calls that come at once, only two rounds can begin before the deadline."""

    def check(name: str) -> None:
        with echoing(name, options={f"{name}.when_full": "wait"}) as (found, _), Pool(transports.make(name)) as pool:

            def ask(_: int) -> str:
                message = Message("echo", {"wait": 0.75 * DEADLINE})
                try:
                    return pool.call(found[name], message, DEADLINE)[0].method
                except (DeadlineExceeded, ConnectError):
                    return "late"

            with ThreadPoolExecutor(4 * WORKERS) as clients:
                outcomes = Counter(clients.map(ask, range(4 * WORKERS)))
            begun = pool.call(found[name], Message("begun"), PATIENCE)[0].fields["count"]
            assert outcomes["echo"] <= begun <= 3 * WORKERS

    at_once(check, REMOTE)
