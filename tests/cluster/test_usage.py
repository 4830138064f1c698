"""The usage of a node: counted by threads, carried in a message, and read from a message."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from cluster.usage import Traffic, Usage
from transports.address import Address
from transports.base import Message
from transports.errors import MalformedMessage

HERE, SIX = Address("127.0.0.1", 7001), Address("::1", 7002)


def test_bytes_of_many_threads_are_all_counted() -> None:
    traffic = Traffic()

    def count() -> None:
        for _ in range(1000):
            traffic.add(HERE, 1, 2)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    traffic.add(SIX, 3, 0)
    assert traffic.bytes() == {HERE: (4000, 8000), SIX: (3, 0)}


def test_a_reading_does_not_change_later() -> None:
    traffic = Traffic()
    before = traffic.bytes()
    traffic.add(HERE, 1, 1)
    assert before == {}


def test_the_usage_of_this_process() -> None:
    traffic = Traffic()
    traffic.add(HERE, 5, 6)
    first = Usage.of_this_process(traffic)
    until = time.process_time() + 0.02
    while time.process_time() < until:
        pass
    last = Usage.of_this_process(traffic)
    assert last.cpu - first.cpu >= 0.02
    assert last.peak >= first.peak > 2**20
    assert last.traffic == {HERE: (5, 6)}


@pytest.mark.parametrize("traffic", [{}, {HERE: (1, 2**40)}, {HERE: (1, 2), SIX: (0, 0)}])
def test_it_is_read_as_it_was_written(traffic: dict[Address, tuple[int, int]]) -> None:
    usage = Usage(1.5, 2**33, traffic)
    assert Usage.of(Message("used", usage.fields())) == usage


GOOD: dict[str, Any] = Usage(1.5, 3, {HERE: (1, 2)}).fields()
WRONG: dict[str, dict[str, Any]] = {
    "nothing": {},
    "no number": {**GOOD, "cpu": "much"},
    "no whole number": {**GOOD, "peak": 1.5},
    "no text": {**GOOD, "traffic": 3},
    "no address": {**GOOD, "traffic": "here 1 2"},
    "two words": {**GOOD, "traffic": f"{HERE} 1"},
    "no bytes": {**GOOD, "traffic": f"{HERE} 1 many"},
}


@pytest.mark.parametrize("case", WRONG)
def test_a_malformed_usage_is_refused(case: str) -> None:
    with pytest.raises(MalformedMessage, match=r"'used' has|cpu: 'much'"):
        Usage.of(Message("used", WRONG[case]))
