"""The schedule of a direction, without a clock and without sockets."""

from __future__ import annotations

import pytest

from cluster.links.link import Link
from cluster.links.schedule import LEAST, READ, Schedule

SLOW = Link("a", "b", False, delay=0.1, bandwidth=8000.0)
"""1,000 bytes a second."""
JITTERY = Link("a", "b", False, delay=0.1, jitter=0.05)


def test_pieces_queue_for_the_bandwidth_and_overlap_while_they_travel() -> None:
    schedule = Schedule(SLOW, "1")
    assert [schedule.deliver(arrived, 10) for arrived in (5.0, 5.0, 5.005, 6.0)] == pytest.approx(
        [5.11, 5.12, 5.13, 6.11]
    )


def test_without_a_bandwidth_only_the_delay_counts() -> None:
    schedule = Schedule(Link("a", "b", False, delay=0.1), "1")
    assert [schedule.deliver(5.0, 10**9) for _ in range(3)] == pytest.approx([5.1] * 3)


def moments(seed: str, in_order: bool) -> list[float]:
    schedule, moments, last = Schedule(JITTERY, seed), [], 0.0
    for number in range(1000):
        last = schedule.deliver(number * 0.001, 100, last if in_order else 0.0)
        moments.append(last)
    return moments


def test_the_same_seed_gives_the_same_jitter() -> None:
    assert moments("1", True) == moments("1", True)
    assert moments("1", True) != moments("2", True)


def test_jitter_is_uniform_around_the_delay() -> None:
    delays = [moment - number * 0.001 for number, moment in enumerate(moments("1", False))]
    assert min(delays) == pytest.approx(0.05, abs=0.002)
    assert max(delays) == pytest.approx(0.15, abs=0.002)
    assert sum(delays) / len(delays) == pytest.approx(0.1, abs=0.005)


def test_jitter_keeps_the_order_within_a_connection() -> None:
    assert moments("1", True) == sorted(moments("1", True))
    assert moments("1", False) != sorted(moments("1", False))


@pytest.mark.parametrize(
    ("bandwidth", "piece", "read"),
    [(5e6, LEAST, 6250), (50e6, 6250, 62500), (1e9, READ, READ), (float("inf"), READ, READ)],
)
def test_the_slower_the_link_the_smaller_the_pieces(bandwidth: float, piece: int, read: int) -> None:
    schedule = Schedule(Link("a", "b", False, bandwidth=bandwidth), "1")
    assert (schedule.piece, schedule.read) == (piece, read)


def test_a_connection_may_fill_a_long_link() -> None:
    assert Schedule(Link("a", "b", False, delay=0.1, bandwidth=1e9), "1").limit >= 1e9 / 8 * 0.3 - 1
    assert Schedule(SLOW, "1").limit == Schedule(Link("a", "b", False), "1").limit == 4 * 2**20


def test_jitter_goes_on_when_the_cells_of_an_experiment_take_turns() -> None:
    first = Schedule(JITTERY, "1")
    kept = [Schedule(JITTERY, "1").deliver(0.0, 0) for _ in range(5)]
    found = []
    for _ in range(5):
        following = Schedule(JITTERY, "1")
        following.follow(first)
        found.append(following.deliver(0.0, 0))
        first = following
    assert len(set(kept)) == 1
    assert len(set(found)) == 5


def test_what_a_link_still_sends_occupies_the_one_that_takes_its_place() -> None:
    before, after = Schedule(SLOW, "1"), Schedule(SLOW, "1")
    until = before.deliver(0.0, 10_000)
    after.follow(before)
    assert after.deliver(0.0, 1) > until
