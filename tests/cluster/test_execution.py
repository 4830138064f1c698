"""Execution slots: the number of stages that run at a time; waiting for a core does not count as compute."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from cluster.execution import ExecutionSlots, Shard
from cluster.flows import FLOWS
from cluster.node_server import slowed
from cluster.pinning import usable
from tests.cluster.hosts import Gate, Nodes
from tests.cluster.plans import chain, placed
from transports.errors import DeadlineExceeded

INPUTS = {"x": np.ones((1, 2), np.float32)}


def soon(seconds: float) -> float:
    """The moment in `seconds`, on the monotonic clock."""
    return time.monotonic() + seconds


def test_acquiring_waits_for_a_slot_until_the_deadline() -> None:
    waits = threading.Event()

    def capacity() -> int:
        waits.set()
        return 1

    slots = ExecutionSlots(capacity)
    assert slots.acquire(soon(10.0)) == 0.0
    with pytest.raises(DeadlineExceeded, match=r"no core was free for a stage within 0\.0"):
        slots.acquire(soon(0.01))
    with ThreadPoolExecutor(1) as threads:
        waits.clear()
        waiting = threads.submit(slots.acquire, soon(60.0))
        assert waits.wait(20.0)  # it holds the lock until it waits
        slots.release()
        assert waiting.result(20.0) >= 0.0


def test_slots_follow_the_cores_that_the_process_may_use() -> None:
    cores = [1]
    slots = ExecutionSlots(lambda: cores[0])
    slots.acquire(soon(1.0))
    cores[0] = 2
    assert slots.acquire(soon(0.0)) == 0.0


def test_a_slow_stage_waits_for_the_rest_of_its_seconds() -> None:
    spent = []

    def stage(inputs: Sequence[Any], timeout: float) -> list[Any]:
        began = time.perf_counter()
        time.sleep(0.01)
        spent.append(time.perf_counter() - began)
        return [inputs[0] + 1]

    shards = {("p", "frozen"): Shard(placed(chain(1), [0]), 0, {"stage-0": stage}, np.asarray)}
    assert slowed(shards, 1.0) is shards
    (slow,) = slowed(shards, 3.0).values()
    began = time.perf_counter()
    (output,) = slow.execute["stage-0"]([INPUTS["x"]], 1.0)
    assert time.perf_counter() - began >= 3 * spent[0]
    assert output.tolist() == [[2.0, 2.0]]


class Crowd:
    """A stage that counts its simultaneous calls, and returns once there have been `usable()` of them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.inside = self.most = 0
        self.full = threading.Event()

    def __call__(self, inputs: Sequence[Any], timeout: float) -> list[Any]:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
            if self.inside == usable():
                self.full.set()
        assert self.full.wait(20)
        with self.lock:
            self.inside -= 1
        return [inputs[0] + 1]


@pytest.mark.parametrize("flow", FLOWS)
def test_every_flow_executes_as_many_stages_at_a_time_as_there_are_cores(flow: str) -> None:
    partition, crowd = placed(chain(1), [0]), Crowd()
    with Nodes(1, {"a0": crowd}, partition) as nodes, ThreadPoolExecutor(4 * usable()) as threads:
        nodes.start()
        client, route = nodes.client(), nodes.route(partition, flow)
        infer = lambda _: client.infer(partition, route, INPUTS, 20.0)  # noqa: E731
        answers = list(threads.map(infer, range(4 * usable())))
    assert crowd.most == usable()
    assert all((answer.outputs["a0"] == 2).all() for answer in answers)


@pytest.mark.parametrize("flow", FLOWS)
def test_waiting_for_a_core_is_queued_and_not_compute(flow: str) -> None:
    """Requests hold every core until another one waits: its time counts as queued."""
    partition, gate = placed(chain(1), [0]), Gate()
    with Nodes(1, {"a0": gate}, partition) as nodes, ThreadPoolExecutor(usable() + 1) as threads:
        nodes.start()
        client, route = nodes.client(), nodes.route(partition, flow)
        holding = [threads.submit(client.infer, partition, route, INPUTS, 20.0) for _ in range(usable())]
        gate.await_begun(usable())
        waiting = threads.submit(client.infer, partition, route, INPUTS, 20.0)
        assert not gate.begun.acquire(timeout=0.3)
        gate.open.set()
        held = [future.result().stats for future in holding]
        late = waiting.result().stats
    assert late.queued > 0.2 > late.compute
    assert min(stats.compute for stats in held) > 0.2


def test_stages_in_model_servers_need_no_slot() -> None:
    partition = placed(chain(1), [0])
    inside = threading.Barrier(usable() + 2)

    def stage(inputs: Sequence[Any], timeout: float) -> list[Any]:
        inside.wait(20)
        return [inputs[0] + 1]

    stages: Mapping[str, Any] = {"a0": stage}
    with Nodes(1, stages, partition, remote=True) as nodes, ThreadPoolExecutor(usable() + 2) as threads:
        nodes.start()
        client, route = nodes.client(), nodes.route(partition, "nested")
        infer = lambda _: client.infer(partition, route, INPUTS, 20.0)  # noqa: E731
        answers = list(threads.map(infer, range(usable() + 2)))
    assert all((answer.outputs["a0"] == 2).all() for answer in answers)
