"""The client: asks where the model's inputs are awaited, sends them, and receives the model's outputs.

An inference changes nothing at the servers, so that one which was lost may be tried again. Every attempt is a request
of its own: what is still under way of the last one meets nothing of the next.
"""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from cluster.dispatcher import UNREACHABLE, Dispatcher
from cluster.errors import NoServer
from cluster.flows import FLOWS
from cluster.partition import Partition
from cluster.request import Request, RequestStats, Route
from cluster.result_receiver import ResultReceiver
from transports.base import Array

PAUSE, LONGEST = 0.05, 1.0
"""Seconds before the first repeat; they double with each one, up to the longest."""


@dataclass(frozen=True)
class Answer:
    """The model's outputs by tensor name, and what getting them cost."""

    outputs: Mapping[str, Array]
    stats: RequestStats
    """Of the attempt that was answered."""
    repeats: int = 0
    """Attempts before that one, which were lost."""


class Client:
    """One of possibly many; its request ids are unique among them all."""

    def __init__(self, dispatcher: Dispatcher, receiver: ResultReceiver) -> None:
        self._dispatcher = dispatcher
        self._receiver = receiver
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count()

    def infer(
        self, partition: Partition, route: Route, inputs: Mapping[str, Array], timeout: float, repeats: int = 0
    ) -> Answer:
        """Run `partition` on `inputs` (tensor name -> array, batch first) within `timeout` seconds.

        A request that is lost with a server, or not answered within its share of the time, is repeated up to `repeats`
        times, by servers that the registry knows by then. Raises the `WireError` of the last attempt; `NoServer` when
        an output of the model did not come back.
        """
        number, deadline = next(self._numbers), time.monotonic() + timeout
        for attempt in range(repeats + 1):
            share = (deadline - time.monotonic()) / (repeats + 1 - attempt)
            name = f"{self._prefix}-{number}.{attempt}"
            request = Request(name, route, time.monotonic() + share, turn=number + attempt, attempt=attempt)
            try:
                request, asked = self._dispatcher.pinned(request, partition)
                answer = self._ask(request, partition, inputs)
                return Answer(answer.outputs, answer.stats + asked, repeats=attempt)
            except (*UNREACHABLE, NoServer):
                self._dispatcher.avoid(request)
                pause = min(LONGEST, PAUSE * 2**attempt)
                if attempt == repeats or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _ask(self, request: Request, partition: Partition, inputs: Mapping[str, Array]) -> Answer:
        sent = {name: inputs[name] for name in partition.plan.inputs if name in partition.plan.edges}
        outputs, stats = FLOWS[request.route.flow].ask(request, partition, sent, self._dispatcher, self._receiver)
        missing = [name for name in partition.plan.outputs if name not in outputs]
        if missing:
            raise NoServer(f"the servers answered without the model's outputs {', '.join(map(repr, missing))}")
        return Answer(outputs, stats)
