"""A node: holds a shard of each partition, keeps inputs until a stage has them all, executes stages, sends outputs on.

Several transports may serve `Node.handle` at once. The node sends its outputs through a `Dispatcher`. Several requests
of several clients may be in flight at a time.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial

from msgspec.structs import replace

from cluster import spans
from cluster.dispatcher import FAILURE_NOTICE_TIMEOUT, Dispatcher
from cluster.errors import Draining, NotAwaited, StaleEpoch
from cluster.execution import ExecutionSlots, Shard
from cluster.flows import FLOWS, Produced, Steps
from cluster.packing import pack_answer, unpack
from cluster.partition import Partition
from cluster.pending import Values, cascade
from cluster.pinning import usable
from cluster.queues import LOCAL, DestinationQueues, Next
from cluster.request import NO_STATS, Request, RequestStats
from cluster.request_table import RequestTable
from cluster.segments import Segment
from cluster.usage import Usage
from transports.base import Array, Message
from transports.errors import DeadlineExceeded, MalformedMessage, ResourceExhausted, WireError
from transports.packing import OFF
from transports.spans import RECORDER, child

log = logging.getLogger("splitbench.cluster")

WAITING = 256
"""Acknowledged messages that may wait at a node. It refuses further messages, so that its memory stays bounded."""
WAITING_FOR_ADDRESS = WAITING // 4
"""Messages that may wait for one address, so that an address that does not answer leaves room for the others."""


class Node:
    """The message handler of one server. `shards` has its shards by (partition name, engine)."""

    def __init__(
        self, shards: Mapping[tuple[str, str], Shard], dispatcher: Dispatcher, epoch: Callable[[], int] = lambda: 0
    ) -> None:
        """`epoch`: the current epoch of the server's lease. Messages that name another epoch are rejected."""
        self._shards = shards
        self._epoch = epoch
        self.dispatcher = dispatcher
        self.requests = RequestTable()
        self.slots = ExecutionSlots()
        self._queues = DestinationQueues(usable, WAITING_FOR_ADDRESS, WAITING)
        self._room = threading.BoundedSemaphore(WAITING)

    def handle(self, message: Message) -> Message:
        """Answer the methods `infer` (by the request's flow), `usage` (`cluster.usage`) and `spans` (`cluster.spans`).

        Raises a `WireError`.
        """
        if message.method != "infer":
            return self._told(message)
        named, held = message.fields.get("epoch"), self._epoch()
        if named != held:
            raise StaleEpoch(f"the message names epoch {named}, and this server has epoch {held}")
        request = Request.of(message.fields)
        route = request.route
        shard = self._shards.get((route.partition, route.engine))
        if shard is None:
            raise NotAwaited(f"this server has no stage of partition {route.partition!r} with engine {route.engine!r}")
        if request.trace is None:
            return self._answer(request, shard, message)
        return RECORDER.timed(request.trace, "handle", self._answer, request, shard, message, server=shard.server)

    def _told(self, message: Message) -> Message:
        if message.method == "usage":
            return Message("used", Usage.of_this_process(self.dispatcher.traffic).fields())
        if message.method == "spans":
            return spans.answer(RECORDER, len(self.requests))
        raise MalformedMessage(f"a node has no method {message.method!r}: it has 'infer', 'usage' and 'spans'")

    def _answer(self, request: Request, shard: Shard, message: Message) -> Message:
        packs, unpacking = request.route.wire != OFF, NO_STATS
        if packs:
            message, unpacking = unpack(message, request.route, self.dispatcher.transports, request.trace)
        for name, tensor in message.tensors.items():
            shard.check_arrival(name, tensor, request.route.local_calls)
        self.requests.enter(request)
        try:
            answer = FLOWS[request.route.flow].answer(_Visit(self, request, shard, message, unpacking))
            return pack_answer(answer, request.route, message, request.trace) if packs else answer
        finally:
            self.requests.leave(request)

    def defer(self, request: Request, steps: Steps) -> None:
        """Run `steps` of `request` in their queues. Raises `ResourceExhausted` if too many messages wait."""
        if not self._room.acquire(blocking=False):
            raise ResourceExhausted(f"{WAITING} messages already wait at this server")
        self.requests.enter(request)
        if first := self._advance(request, steps, None):
            self._queues.put(*first)

    def drain(self, seconds: float) -> None:
        """Accept no new request, and wait up to `seconds` until the requests in flight have left this server."""
        self.requests.drain(seconds)

    def close(self) -> None:
        """Drop the messages whose stages have not run, and notify their clients within `FAILURE_NOTICE_TIMEOUT`."""
        for task in self._queues.take_back(LOCAL):
            if after := task(Draining("the server ended before it executed this request")):
                self._queues.put(*after)
        self._queues.close(FAILURE_NOTICE_TIMEOUT)

    def _advance(self, request: Request, steps: Steps, rejected: WireError | None) -> Next | None:
        """Run the next step; returns the step after it. `rejected`: the error to throw into `steps` instead, with which
        a queue rejected the next step."""
        try:
            queue = next(steps) if rejected is None else steps.throw(rejected)
        except StopIteration:
            self._leave(request)
        except Exception as error:  # even the failure notice to the client failed
            log.warning("request %s was given up: %s", request.id, error)
            self._leave(request)
        else:
            # A full queue must not refuse a failure notice: the client has no other way to learn of the failure.
            return Next(queue, partial(self._advance, request, steps), refusable=rejected is None)
        return None

    def _leave(self, request: Request) -> None:
        self._room.release()
        self.requests.leave(request)


class _Visit:
    """Implements `flows.Visit` for one message at this node."""

    def __init__(self, node: Node, request: Request, shard: Shard, message: Message, unpacking: RequestStats) -> None:
        """`unpacking`: the statistics of unpacking `message`."""
        self.request = request
        self.partition: Partition = shard.partition
        self.dispatcher = node.dispatcher
        self._node = node
        self._shard = shard
        self._message = message
        self._unpacking = unpacking

    def run(self) -> Produced:
        """Execute every segment whose last input is in the message, and segments that their outputs complete in turn.

        Only tensors that leave this server and outputs of the model are converted to arrays.
        """
        request, shard, final = self.request, self._shard, self.partition.plan.outputs
        local_calls = request.route.local_calls
        segments, leaving = shard.segments[local_calls], shard.leaving[local_calls]
        trace, server = request.trace, shard.server
        outputs: dict[str, Array] = {}
        away: dict[str, Array] = {}
        compute = queued = 0.0

        def execute(segment: Segment, values: Values) -> Values:
            nonlocal compute, queued
            if not shard.remote and (waited := self._node.slots.acquire(request.deadline)):
                queued += waited
                if trace is not None:
                    now = time.perf_counter()
                    RECORDER.add(trace, "queue", now - waited, now, server)
            try:
                for stage in segment.stages:
                    if (left := request.remaining) <= 0:
                        raise DeadlineExceeded(f"request {request.id}: no time left for stage {stage.name!r}")
                    began = time.perf_counter()
                    for name, value in zip(stage.outputs, shard.run(stage, values, left), strict=True):
                        values[name] = value
                        if name in leaving or name in final:
                            array = shard.to_array(value)
                            if name in leaving:
                                away[name] = array
                            if name in final:
                                outputs[name] = array
                    ended = time.perf_counter()
                    compute += ended - began
                    if trace is not None:
                        RECORDER.add(trace, "compute", began, ended, server, stage.name)
            finally:
                if not shard.remote:
                    self._node.slots.release()
            return {name: values[name] for name in segment.outputs}

        put = partial(self._node.requests.put, request, shard, segments)
        if trace is not None and segments.joining:
            put = partial(spans.waiting, put, trace, server, time.perf_counter())
        cascade(put, self._message.tensors, execute)
        stats = RequestStats(0, 0, 0, 0, compute, queued)
        return Produced(outputs, away, stats if self._unpacking is NO_STATS else stats + self._unpacking)

    def defer(self, steps: Steps) -> None:
        if (trace := self.request.trace) is not None:
            own = child(trace)
            self.request = replace(self.request, trace=own)
            steps = spans.deferred(steps, trace, own, self._shard.server)
        self._node.defer(self.request, steps)

    def add_carried_stats(self) -> None:
        message = self._message
        self.add_stats(RequestStats.of(message) + RequestStats(messages=1, payload=message.payload))

    def add_stats(self, stats: RequestStats) -> None:
        self._node.requests.add_stats(self.request, stats)

    def take_stats(self) -> RequestStats:
        return self._node.requests.take_stats(self.request)
