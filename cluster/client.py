"""The client: sends the model's inputs to the servers that await them, and returns the model's outputs.

An inference changes nothing at the servers, so that a failed one may be retried. Each retry is a request with a new id,
so late messages of an earlier attempt cannot mix with it.
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

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before the first retry; they double with each further one, up to the longest."""


@dataclass(frozen=True)
class Answer:
    """The model's outputs by tensor name, and the statistics of the request."""

    outputs: Mapping[str, Array]
    stats: RequestStats
    """Of the attempt that succeeded."""
    repeats: int = 0
    """Attempts that failed before it."""


class Client:
    """Any number of clients may call one cluster: request ids are unique among them all."""

    def __init__(self, dispatcher: Dispatcher, receiver: ResultReceiver) -> None:
        self._dispatcher = dispatcher
        self._receiver = receiver
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count()

    def infer(
        self, partition: Partition, route: Route, inputs: Mapping[str, Array], timeout: float, repeats: int = 0
    ) -> Answer:
        """Run `partition` on `inputs` (tensor name -> array, batch first) within `timeout` seconds.

        A request that fails because a server cannot be reached, or that is not answered within its share of the time,
        is retried up to `repeats` times with servers that the registry names then. Raises the `WireError` of the last
        attempt, and `NoServer` when an output of the model is missing from the answer.
        """
        number, deadline = next(self._numbers), time.monotonic() + timeout
        for attempt in range(repeats + 1):
            share = (deadline - time.monotonic()) / (repeats + 1 - attempt)
            name = f"{self._prefix}-{number}.{attempt}"
            request = Request(name, route, time.monotonic() + share, turn=number + attempt, attempt=attempt)
            try:
                request, asked = self._dispatcher.pinned(request, partition)
                outputs, stats = self._attempt(request, partition, inputs)
                return Answer(outputs, stats + asked, repeats=attempt)
            except (*UNREACHABLE, NoServer):
                self._dispatcher.avoid(request)
                pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2**attempt)
                if attempt == repeats or time.monotonic() + pause > deadline:
                    raise
                time.sleep(pause)
        raise AssertionError("unreachable")

    def _attempt(
        self, request: Request, partition: Partition, inputs: Mapping[str, Array]
    ) -> tuple[Mapping[str, Array], RequestStats]:
        plan = partition.plan
        sent = {name: inputs[name] for name in plan.inputs if name in plan.edges}
        flow = FLOWS[request.route.flow]
        outputs, stats = flow.ask(request, partition, sent, self._dispatcher, self._receiver)
        missing = [name for name in plan.outputs if name not in outputs]
        if missing:
            raise NoServer(f"the servers answered without the model's outputs {', '.join(map(repr, missing))}")
        return outputs, stats
