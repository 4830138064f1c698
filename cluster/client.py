"""The client: sends the model's inputs to the servers that await them, and returns the model's outputs.

An inference changes nothing at the servers, so a failed one may be retried. Each retry is a request with a new id, so
late messages of an earlier attempt cannot mix with it.
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
from transports.spans import Context

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 1.0
"""Seconds before the first retry, and at most before any; the pause doubles with each retry."""


@dataclass(frozen=True)
class Answer:
    """The model's outputs by tensor name, and the statistics of the request."""

    outputs: Mapping[str, Array]
    stats: RequestStats
    """The statistics of the successful attempt alone."""
    repeats: int = 0
    """Number of attempts that failed before it."""


class Client:
    """A client of a cluster. Any number of clients may call one cluster, since no two use the same request id."""

    def __init__(self, dispatcher: Dispatcher, receiver: ResultReceiver) -> None:
        self._dispatcher = dispatcher
        self._receiver = receiver
        self._prefix = uuid.uuid4().hex
        self._numbers = itertools.count()

    def infer(
        self,
        partition: Partition,
        route: Route,
        inputs: Mapping[str, Array],
        timeout: float,
        repeats: int = 0,
        trace: Context | None = None,
    ) -> Answer:
        """Run `partition` on `inputs` (tensor name -> array, batch first) within `timeout` seconds.

        A request is retried up to `repeats` times if a server cannot be reached, or if no answer comes within the
        attempt's share of the time; retries bypass the registry cache. `trace`: the span of the request, if every
        process is to record its spans below this one. Raises the `WireError` of the last attempt, and `NoServer` if the
        answer lacks an output of the model.
        """
        number, deadline = next(self._numbers), time.monotonic() + timeout
        for attempt in range(repeats + 1):
            share = (deadline - time.monotonic()) / (repeats + 1 - attempt)
            name = f"{self._prefix}-{number}.{attempt}"
            turn = number + attempt
            request = Request(name, route, time.monotonic() + share, turn=turn, attempt=attempt, trace=trace)
            try:
                request, pinning = self._dispatcher.directory.pinned(request, partition)
                outputs, stats = self._attempt(request, partition, inputs)
                return Answer(outputs, stats + pinning, repeats=attempt)
            except (*UNREACHABLE, NoServer):
                self._dispatcher.directory.avoid(request)
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
        outputs, stats = flow.infer(request, partition, sent, self._dispatcher, self._receiver)
        missing = [name for name in plan.outputs if name not in outputs]
        if missing:
            raise NoServer(f"the servers answered without the model's outputs {', '.join(map(repr, missing))}")
        return outputs, stats
