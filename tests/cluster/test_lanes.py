"""Lanes: one way waits for nothing that goes another, keeps its own order, and has only so much waiting."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cluster.errors import Draining
from cluster.lanes import HERE, Lanes, Work
from transports.errors import ResourceExhausted, WireError

HANDS, MOST, THREADS = 2, 3, 16
WAIT = 20.0


class Log:
    """What was done, in order, and what was told that it never will be."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.told: dict[str, WireError] = {}
        self.begun, self.gate = threading.Semaphore(0), threading.Event()

    def work(self, name: str, *, gated: bool = False) -> Work:
        def run(error: WireError | None) -> None:
            if error is not None:
                self.told[name] = error
                return
            self.begun.release()
            assert not gated or self.gate.wait(WAIT)
            self.done.append(name)

        return run

    def await_begun(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=WAIT)


@pytest.fixture
def lanes() -> Lanes:
    return Lanes(lambda: HANDS, MOST, THREADS)


@pytest.fixture
def log(lanes: Lanes) -> Iterator[Log]:
    made = Log()
    yield made
    made.gate.set()
    lanes.close(WAIT)


def test_a_lane_keeps_its_order_and_waits_for_no_other(lanes: Lanes, log: Log) -> None:
    lanes.put("slow", log.work("slow", gated=True))
    log.await_begun(1)
    for number in range(MOST):
        lanes.put("slow", log.work(f"slow {number}"))
        lanes.put("quick", log.work(f"quick {number}"))
    log.await_begun(MOST)
    log.gate.set()
    lanes.close(WAIT)
    quick, slow = ([name for name in log.done if name.startswith(lane)] for lane in ("quick", "slow"))
    assert quick == [f"quick {number}" for number in range(MOST)]
    assert slow == ["slow", *(f"slow {number}" for number in range(MOST))]


def test_of_what_goes_nowhere_so_much_is_done_at_a_time(lanes: Lanes, log: Log) -> None:
    for number in range(HANDS + 2 * MOST):
        lanes.put(HERE, log.work(f"{number}", gated=True))
    log.await_begun(HANDS)
    assert not log.begun.acquire(blocking=False)
    assert len(lanes.take_back(HERE)) == 2 * MOST
    log.gate.set()
    lanes.close(WAIT)
    assert sorted(log.done) == [f"{number}" for number in range(HANDS)]


def test_what_finds_a_lane_full_is_told_so_and_another_is_not_full(lanes: Lanes, log: Log) -> None:
    lanes.put("slow", log.work("first", gated=True))
    log.await_begun(1)
    for number in range(MOST + 1):
        lanes.put("slow", log.work(f"{number}"))
    lanes.put("quick", log.work("quick"))
    lanes.put("slow", log.work("an report_failure"), refusable=False)
    log.await_begun(1)
    assert isinstance(log.told.pop(f"{MOST}"), ResourceExhausted)
    assert not log.told
    log.gate.set()
    lanes.close(WAIT)
    assert log.done[-1] == "an report_failure"


def test_nothing_is_begun_after_the_end(lanes: Lanes, log: Log) -> None:
    lanes.put("slow", log.work("first", gated=True))
    log.await_begun(1)
    lanes.put("slow", log.work("waits"))
    lanes.close(0.0)
    lanes.put("slow", log.work("late"))
    log.gate.set()
    lanes.close(WAIT)
    assert log.done == ["first"]
    assert isinstance(log.told["late"], Draining)
