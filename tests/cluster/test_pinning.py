"""Pinning: every thread of a process stays on its cores, and a node executes at most one stage a core."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from cluster.pinning import cores, pinned, usable
from tests.cluster.hosts import Nodes, send
from tests.cluster.plans import chain, partition

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")

CUT = partition(chain(1), [0])
INPUTS = {"x": np.ones((1, 2), np.float32)}
REQUESTS, PATIENT = 3, 20.0


class Gate:
    """A stage that waits until the test opens the gate."""

    def __init__(self) -> None:
        self.begun, self.opened = threading.Semaphore(0), threading.Event()

    def stage(self, inputs: Sequence[Any], _: float) -> list[Any]:
        self.begun.release()
        assert self.opened.wait(PATIENT)
        return [inputs[0] + 1]


def test_every_thread_is_pinned_and_released_again() -> None:
    before, seen, (asked, told) = usable(), [], (threading.Semaphore(0), threading.Semaphore(0))

    def look() -> None:
        for _ in range(2):
            asked.acquire()
            seen.append(os.sched_getaffinity(0))
            told.release()

    thread = threading.Thread(target=look)
    thread.start()
    everywhere = set(cores())
    with pinned(cores()[:1]):
        assert usable() == 1
        asked.release()
        told.acquire()
    asked.release()
    thread.join()
    assert seen == [{min(everywhere)}, everywhere]
    assert usable() == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_node_executes_a_stage_for_each_of_its_cores(count: int) -> None:
    """The cores that count are those at the time of the request."""
    if usable() < count:
        pytest.skip(f"this process may use {usable()} cores alone")
    gate = Gate()
    with Nodes(1, {"a0": gate.stage}, CUT) as nodes:
        nodes.start()
        dispatcher, receiver = nodes.dispatcher(), nodes.receiver()
        with pinned(cores()[:count]), receiver.expect(nodes.request(CUT, PATIENT), CUT.plan.outputs) as awaited:
            for _ in range(REQUESTS):
                again = nodes.request(CUT, PATIENT, reply_to=awaited.request.reply_to)
                assert [reply.method for reply in send(dispatcher, again, CUT, INPUTS)] == ["accepted"]
            for _ in range(count):
                assert gate.begun.acquire(timeout=PATIENT)
            assert not gate.begun.acquire(timeout=0.2)
            gate.opened.set()
            for _ in range(REQUESTS - count):
                assert gate.begun.acquire(timeout=PATIENT)
