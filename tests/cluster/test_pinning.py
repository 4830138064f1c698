"""Pinning: every thread of a process stays on its cores, and a node executes at most one stage per core."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from cluster.pinning import cores, pinned, usable
from tests.cluster.hosts import Gate, Nodes, send
from tests.cluster.plans import chain, placed

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins no process")

PARTITION = placed(chain(1), [0])
INPUTS = {"x": np.ones((1, 2), np.float32)}
REQUESTS, PATIENT = 3, 20.0


def test_every_thread_is_pinned_and_released_again() -> None:
    before, seen, (asked, answered) = usable(), [], (threading.Semaphore(0), threading.Semaphore(0))

    def look() -> None:
        for _ in range(2):
            asked.acquire()
            seen.append(os.sched_getaffinity(0))
            answered.release()

    thread = threading.Thread(target=look)
    thread.start()
    everywhere = set(cores())
    with pinned(cores()[:1]):
        assert usable() == 1
        asked.release()
        answered.acquire()
    asked.release()
    thread.join()
    assert seen == [{min(everywhere)}, everywhere]
    assert usable() == before


@pytest.mark.parametrize("count", [1, 2])
def test_a_node_executes_a_stage_for_each_of_its_cores(count: int) -> None:
    """The node counts the cores that it may use at the time of a request."""
    if usable() < count:
        pytest.skip(f"this process may use only {usable()} cores")
    gate = Gate()
    with Nodes(1, {"a0": gate}, PARTITION) as nodes:
        nodes.start()
        dispatcher, receiver = nodes.dispatcher(), nodes.receiver()
        with (
            pinned(cores()[:count]),
            receiver.expect(nodes.request(PARTITION, PATIENT), PARTITION.plan.outputs) as awaited,
        ):
            for _ in range(REQUESTS):
                again = nodes.request(PARTITION, PATIENT, reply_to=awaited.request.reply_to)
                assert [reply.method for reply in send(dispatcher, again, PARTITION, INPUTS)] == ["accepted"]
            gate.await_begun(count)
            assert not gate.begun.acquire(timeout=0.2)
            gate.open.set()
            gate.await_begun(REQUESTS - count)
