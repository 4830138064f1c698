"""Destination queues: a slow destination blocks only its own queue; queues keep their order and are bounded."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from cluster.errors import Draining
from cluster.queues import LOCAL, DestinationQueues, Next, Task
from transports.errors import ResourceExhausted, WireError

AT_A_TIME, BOUND, THREADS = 2, 3, 16
WAIT = 20.0


class Log:
    """The tasks that ran, in order, and the refused tasks, each with its error."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refused: dict[str, WireError] = {}
        self.threads: dict[str, int] = {}
        self.begun, self.gate = threading.Semaphore(0), threading.Event()

    def task(self, name: str, *, gated: bool = False, after: Next | None = None) -> Task:
        def run(error: WireError | None) -> Next | None:
            if error is not None:
                self.refused[name] = error
                return after
            self.begun.release()
            assert not gated or self.gate.wait(WAIT)
            self.done.append(name)
            self.threads[name] = threading.get_ident()
            return after

        return run

    def await_begun(self, count: int) -> None:
        for _ in range(count):
            assert self.begun.acquire(timeout=WAIT)


@pytest.fixture
def queues() -> DestinationQueues:
    return DestinationQueues(lambda: AT_A_TIME, BOUND, THREADS)


@pytest.fixture
def log(queues: DestinationQueues) -> Iterator[Log]:
    made = Log()
    yield made
    made.gate.set()
    queues.close(WAIT)


def test_a_queue_keeps_its_order_and_waits_for_no_other_queue(queues: DestinationQueues, log: Log) -> None:
    queues.put("slow", log.task("slow", gated=True))
    log.await_begun(1)
    for number in range(BOUND):
        queues.put("slow", log.task(f"slow {number}"))
        queues.put("quick", log.task(f"quick {number}"))
    log.await_begun(BOUND)
    log.gate.set()
    queues.close(WAIT)
    quick, slow = ([name for name in log.done if name.startswith(queue)] for queue in ("quick", "slow"))
    assert quick == [f"quick {number}" for number in range(BOUND)]
    assert slow == ["slow", *(f"slow {number}" for number in range(BOUND))]


def test_the_local_queue_runs_several_tasks_at_a_time_and_is_not_bounded(queues: DestinationQueues, log: Log) -> None:
    for number in range(AT_A_TIME + 2 * BOUND):
        queues.put(LOCAL, log.task(f"{number}", gated=True))
    log.await_begun(AT_A_TIME)
    assert not log.begun.acquire(blocking=False)
    assert len(queues.take_back(LOCAL)) == 2 * BOUND
    log.gate.set()
    queues.close(WAIT)
    assert sorted(log.done) == [f"{number}" for number in range(AT_A_TIME)]


def test_a_full_queue_refuses_a_task_unless_it_is_not_refusable(queues: DestinationQueues, log: Log) -> None:
    queues.put("slow", log.task("first", gated=True))
    log.await_begun(1)
    for number in range(BOUND + 1):
        queues.put("slow", log.task(f"{number}"))
    queues.put("quick", log.task("quick"))
    queues.put("slow", log.task("a notice"), refusable=False)
    log.await_begun(1)
    assert isinstance(log.refused.pop(f"{BOUND}"), ResourceExhausted)
    assert not log.refused
    log.gate.set()
    queues.close(WAIT)
    assert log.done[-1] == "a notice"


def test_a_thread_runs_the_next_task_itself_if_its_queue_is_idle(queues: DestinationQueues, log: Log) -> None:
    queues.put(LOCAL, log.task("stage", after=Next("there", log.task("sent"))))
    log.await_begun(2)
    queues.close(WAIT)
    assert log.done == ["stage", "sent"]
    assert log.threads["stage"] == log.threads["sent"]


def test_a_queue_whose_thread_has_moved_on_goes_on(queues: DestinationQueues, log: Log) -> None:
    """The thread of `here` moves on to a task that blocks, while a task waits in `here`."""
    first = threading.Event()

    def stage(error: WireError | None) -> Next:
        assert first.wait(WAIT)
        return Next("there", log.task("blocks", gated=True))

    queues.put("here", stage)
    queues.put("here", log.task("waits"))
    first.set()
    log.await_begun(2)
    assert log.done == ["waits"]
    log.gate.set()
    queues.close(WAIT)
    assert log.threads["waits"] != log.threads["blocks"]


def test_a_next_task_waits_for_its_turn_in_a_busy_queue(queues: DestinationQueues, log: Log) -> None:
    queues.put("there", log.task("first", gated=True))
    log.await_begun(1)
    queues.put("there", log.task("second"))
    queues.put(LOCAL, log.task("stage", after=Next("there", log.task("third"))))
    log.await_begun(1)
    assert not log.begun.acquire(timeout=0.1)
    log.gate.set()
    log.await_begun(2)
    queues.close(WAIT)
    assert log.done == ["stage", "first", "second", "third"]


def test_the_next_task_of_a_refused_task_is_put_too(queues: DestinationQueues, log: Log) -> None:
    queues.put("slow", log.task("first", gated=True))
    log.await_begun(1)
    for number in range(BOUND):
        queues.put("slow", log.task(f"{number}"))
    queues.put("slow", log.task("refused", after=Next("notices", log.task("notice"))))
    log.await_begun(1)
    assert (list(log.refused), log.done) == (["refused"], ["notice"])
    queues.close(0.0)
    queues.put("slow", log.task("late", after=Next("notices", log.task("late notice"), refusable=False)))
    assert {name: type(error) for name, error in log.refused.items() if name != "refused"} == {
        "late": Draining,
        "late notice": Draining,
    }


def test_nothing_starts_after_closing(queues: DestinationQueues, log: Log) -> None:
    queues.put("slow", log.task("first", gated=True))
    log.await_begun(1)
    queues.put("slow", log.task("waits"))
    queues.close(0.0)
    queues.put("slow", log.task("late"))
    log.gate.set()
    queues.close(WAIT)
    assert log.done == ["first"]
    assert isinstance(log.refused["late"], Draining)


def test_a_queue_works_again_after_the_system_had_no_thread_for_it(
    queues: DestinationQueues, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", _no_thread)
        queues.put("there", log.task("refused"))
    assert isinstance(log.refused["refused"], ResourceExhausted)
    queues.put("there", log.task("runs"))
    log.await_begun(1)
    queues.close(WAIT)
    assert log.done == ["runs"]


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
