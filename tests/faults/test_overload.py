"""More clients than a server has room for, over every transport, with both values of `when_full`."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import psutil
import pytest

import transports
from tests.faults.common import PATIENCE, REMOTE, at_once
from tests.faults.server import WORKERS, echoing
from transports import Address, Message
from transports.errors import ConnectError, DeadlineExceeded, ResourceExhausted
from transports.pool import Pool

CLIENTS, ROUNDS = 64, 5
SIZE = 50_000
"""Bytes of a message."""
BUSY = 0.002
"""Seconds that a message keeps one of the server's four workers."""
GROWTH = 96 * 2**20
"""Bytes by which the server may grow between two equal bursts: messages of all clients then lie at other addresses, and
a number in JSON takes 40 bytes for a moment. One message of each client takes 128 MB in this way."""
HOLD = 120.0
"""Seconds that a call may take that holds a worker."""
BRIEF = 0.5
"""Seconds that a call may take that finds no worker."""


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

        def burst() -> int:
            """Send a burst of messages; the memory of the server afterwards, in bytes."""
            with ThreadPoolExecutor(CLIENTS) as clients:
                outcomes = Counter(clients.map(ask, range(CLIENTS * ROUNDS)))
            assert set(outcomes) <= ({"right"} if when_full == "wait" else {"right", "refused"})
            assert outcomes["right"] > 0
            return psutil.Process(pid).memory_info().rss

        first, second = burst(), burst()
        assert second - first < GROWTH
        assert ask(0) == "right"


def test_a_call_that_waited_beyond_its_deadline_is_not_begun() -> None:
    """Calls give up while other calls hold every worker; then a message over another wire releases the workers."""

    def check(name: str) -> None:
        other = next(wire for wire in REMOTE if wire != name)
        with ExitStack() as stack:
            found, pid = stack.enter_context(echoing(name, other, options={f"{name}.when_full": "wait"}))
            pool, aside = (stack.enter_context(Pool(transports.make(wire))) for wire in (name, other))
            clients = stack.enter_context(ThreadPoolExecutor(3 * WORKERS))

            def begun() -> int:
                return int(aside.call(found[other], Message("begun"), PATIENCE)[0].fields["count"])

            holders = [clients.submit(pool.call, found[name], Message("hold"), HOLD) for _ in range(WORKERS)]
            stack.callback(aside.call, found[other], Message("release"), PATIENCE)
            eventually(lambda: begun() == WORKERS)
            held = connections(pid, found[name])
            assert set(clients.map(lambda _: given_up(pool, found[name]), range(3 * WORKERS))) == {"late"}
            eventually(lambda: connections(pid, found[name]) <= held)
            aside.call(found[other], Message("release"), PATIENCE)
            assert [done.result()[0].method for done in holders] == ["hold"] * WORKERS
            for _ in range(WORKERS):
                pool.call(found[name], Message("echo"), PATIENCE)
            assert begun() == WORKERS + 1 + WORKERS

    at_once(check, REMOTE)


def given_up(pool: Pool, address: Address) -> str:
    try:
        return pool.call(address, Message("echo"), BRIEF)[0].method
    except (DeadlineExceeded, ConnectError):
        return "late"


def connections(pid: int, address: Address) -> int:
    """The number of connections that the process has at that port; 0 for Unix sockets, which do not show it."""
    every = [found for found in psutil.Process(pid).net_connections("tcp") if found.laddr.port == address.port]
    return sum(found.status == psutil.CONN_ESTABLISHED for found in every)


def eventually(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 3 * PATIENCE
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.02)
