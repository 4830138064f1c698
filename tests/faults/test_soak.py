"""Thousands of requests through one cluster: memory, descriptors and threads of its processes do not grow."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from threading import Barrier
from typing import TypeVar

import numpy as np
import psutil
import pytest

from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.flows import FLOWS
from cluster.request import Request
from tests.faults.common import REMOTE
from tests.faults.conftest import SERVERS, Running, Work, send
from tests.running import process_of

pytestmark = pytest.mark.slow

WARMUP, REQUESTS = 1000, 10_000
CLIENTS = 4
"""Clients, each with its own connections."""
MEMORY = 16 * 2**20
"""Bytes by which a process may grow: the variation of allocators and stacks, and at most 1.6 kB per request."""

MEETING = 300.0
"""Seconds that the clients wait for each other."""

Sender = TypeVar("Sender")
WAYS = list(itertools.product(REMOTE, FLOWS))
LONG = (REMOTE[0], "nested")
"""The way of nearly all requests. Each other way gets a hundredth of their number, but at least `MOMENT` requests."""
MOMENT = 40

HALVES, ROWS, BRIEF = 3000, 1000, 0.2
"""The number of requests that never become complete, the rows (of some tens of bytes) in the batch of each, and the
seconds until their deadlines."""


@dataclass(frozen=True)
class Usage:
    """Resources of a process."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def of(cls, process: psutil.Process) -> Usage:
        with process.oneshot():
            return cls(process.memory_info().rss, process.num_fds(), process.num_threads())

    def is_flat(self, before: Usage) -> bool:
        """Whether there is no leak, such as a connection or thread for every hundredth request. A few depend on timing:
        the connections of every client, over the long way to each server, and over each other transport."""
        few = CLIENTS * (SERVERS + len(REMOTE))
        return (
            self.memory - before.memory < MEMORY
            and self.descriptors - before.descriptors <= few
            and self.threads - before.threads <= few
        )


def usage(running: Running) -> dict[str, Usage]:
    """The usage of every process of the cluster, and of this process with the clients."""
    found = {name: Usage.of(process_of(running.launcher, name)) for name in running.launcher.running()}
    return found | {"clients": Usage.of(psutil.Process())}


def assert_flat(running: Running, work: Callable[[int], object], many: int) -> None:
    """Run `work(count)` with few and then with `many` requests, and compare the resources after each."""
    work(WARMUP)
    before = usage(running)
    work(many)
    after = usage(running)
    assert set(after) == set(before)
    assert not {name: (before[name], after[name]) for name in after if not after[name].is_flat(before[name])}


def together(clients: Sequence[Sender], run: Callable[[int, Sender], object]) -> None:
    """Run `run` with each of `clients`, in a thread each."""
    with ThreadPoolExecutor(len(clients)) as threads:
        list(threads.map(run, range(len(clients)), clients))


def test_resources_do_not_grow_with_requests(unproxied: Running, works: Mapping[str, Work]) -> None:
    """Several clients at once send most requests in one way, and some in every other way."""
    work = works["sequential"]
    meeting = Barrier(CLIENTS, timeout=MEETING)

    def run(number: int, client: Client, count: int) -> None:
        for way in WAYS:
            meeting.wait()  # so that short runs overlap as much as long ones
            for _ in range((count if way == LONG else max(MOMENT, count // 100)) // CLIENTS):
                work.done_by(client, *way)

    with ExitStack() as stack:
        clients = [stack.enter_context(unproxied.client()) for _ in range(CLIENTS)]
        assert_flat(unproxied, lambda count: together(clients, partial(run, count=count)), REQUESTS)


def test_resources_do_not_grow_with_incomplete_joins(unproxied: Running, works: Mapping[str, Work]) -> None:
    """The tensors of an incomplete request are dropped when a message arrives after its deadline."""
    work = works["fork-join"]
    partition = work.partition
    joins = [stage for stage in partition.plan.stages if len(set(stage.inputs)) > 1]
    name = next(name for stage in joins for name in stage.inputs if partition.destinations(name, local_calls=True))
    half = {name: np.ones((ROWS, *partition.plan.edges[name].shape[1:]), np.float32)}

    def begin(number: int, dispatcher: Dispatcher, count: int) -> None:
        for turn in range(count // CLIENTS):
            way = WAYS[(number + turn) % len(WAYS)]
            request = Request(uuid.uuid4().hex, work.route(*way), time.monotonic() + BRIEF, reply_to="127.0.0.1:1")
            assert send(dispatcher, request, partition, half)

    with ExitStack() as stack:
        dispatchers = [stack.enter_context(unproxied.dispatcher()) for _ in range(CLIENTS)]
        assert_flat(unproxied, lambda count: together(dispatchers, partial(begin, count=count)), HALVES)
        work.done_by(stack.enter_context(unproxied.client()), *WAYS[0])
