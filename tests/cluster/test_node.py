"""What a node keeps of requests, and what it does not take."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from cluster.dispatcher import Dispatcher
from cluster.node import Node, Shard
from cluster.partition import Partition
from cluster.request import Request, RequestStats, Route
from tests.cluster.plans import chain, fork, partition
from transports.base import Message
from transports.errors import MalformedMessage

JOIN = replace(partition(fork(), [1, 0, 1, 0]), name="join")
NEAR = replace(partition(chain(1), [0]), name="near")
TENSOR = np.ones((1, 2), np.float32)


@dataclass(frozen=True)
class Bench:
    """A node with a portion of each partition: of `JOIN` the stages `b` and `join`."""

    node: Node
    shards: dict[tuple[str, str], Shard]

    def send(self, cut: Partition, name: str, tensor: str, remaining: float) -> Request:
        request = Request(name, Route(cut.name, "eager", "none", flow="hub"), time.monotonic() + remaining)
        self.node.handle(Message("infer", request.fields() | {"epoch": 0}, {tensor: TENSOR}))
        return request

    def keeps(self, name: str) -> bool:
        return any(name in portion.inbox for portion in self.shards.values())


@pytest.fixture
def bench() -> Iterator[Bench]:
    stages = {name: lambda inputs, _: [inputs[0]] for name in ("a0", "b", "join")}
    shards = {(cut.name, "eager"): Shard(cut, 0, stages, np.asarray) for cut in (JOIN, NEAR)}
    node = Node(shards, Dispatcher({}, {}))
    with contextlib.closing(node):
        yield Bench(node, shards)


def test_half_a_join_is_forgotten_after_its_deadline_whatever_comes_next(bench: Bench) -> None:
    bench.send(JOIN, "patient", "c", 20.0)
    late = bench.send(JOIN, "late", "c", -1.0)
    bench.node.debts.owe(late, RequestStats(messages=1))
    assert bench.keeps("late")
    bench.send(NEAR, "other", "x", 20.0)
    assert not bench.keeps("late")
    assert not len(bench.node.debts)
    assert bench.keeps("patient")


@pytest.mark.parametrize("remaining", [math.nan, math.inf, -math.inf, 1e300])
def test_a_request_without_a_deadline_is_refused(bench: Bench, remaining: float) -> None:
    with pytest.raises(MalformedMessage, match=re.escape(f"a request has {remaining} seconds left")):
        bench.send(JOIN, "endless", "c", remaining)
    assert not bench.keeps("endless")
