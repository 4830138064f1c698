"""Flows: which process sends the outputs of a stage on, and how the model's outputs reach the client.

`nested`    A server sends its outputs to every server that awaits them, and answers its caller after these servers have
            answered. The model's outputs return up the stack of calls. A server that still lacks an input answers with
            no tensors. Each server on the stack occupies a worker until the servers that it called have answered.
`hub`       A server answers its caller with its outputs, and the client sends them on. No server calls another.
`forward`   A server acknowledges a message at once, and executes and sends its outputs later. The model's outputs go to
            the client's result receiver. No call waits for computation, so consecutive requests overlap in the servers.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from typing import Protocol

import msgspec

from cluster.dispatcher import Dispatcher
from cluster.flow_table import FLOW_NAMES
from cluster.partition import Partition
from cluster.queues import LOCAL
from cluster.request import NO_STATS, Request, RequestStats
from cluster.result_receiver import ResultReceiver
from transports.base import Array, Message, as_wire_error
from transports.errors import MalformedMessage

Tensors = Mapping[str, Array]

Steps = Generator[str, None, None]
"""The work on a message after its acknowledgement. Each yield names the queue of the next step: the address to which
the step sends, or `LOCAL`. An exception thrown in at a yield means that the queue rejected the step."""


class Produced(msgspec.Struct, frozen=True):
    """The results of the stages that a message completed at one server."""

    outputs: Tensors
    """Outputs of the model."""
    leaving: Tensors
    """Tensors that other servers await."""
    stats: RequestStats


class Visit(Protocol):
    """A message that a server handles, and the operations that a flow performs on it."""

    @property
    def request(self) -> Request: ...
    @property
    def partition(self) -> Partition: ...
    @property
    def dispatcher(self) -> Dispatcher: ...

    def run(self) -> Produced:
        """Execute every stage that has all its inputs now that the message's tensors have arrived."""

    def defer(self, steps: Steps) -> None:
        """Run `steps` in their queues. Raises `ResourceExhausted` if too many messages wait already."""

    def add_carried_stats(self) -> None:
        """Add the statistics that the message carries, and count the message itself."""

    def add_stats(self, stats: RequestStats) -> None:
        """Add to the statistics that the next outgoing message of the request carries."""

    def take_stats(self) -> RequestStats:
        """Remove and return the statistics added so far."""


class Flow(ABC):
    """A flow: what the client does for a request (`infer`), and what a server does with a message (`answer`)."""

    waits: bool = False
    """Whether a call from server to server returns only after the called server has computed."""

    @abstractmethod
    def infer(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        """Send the model's inputs and return the model's outputs, with the statistics of the request."""

    @abstractmethod
    def answer(self, visit: Visit) -> Message:
        """A server's answer to a message with tensors."""


class Nested(Flow):
    waits = True

    def infer(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        return _gather(request, partition, inputs, dispatcher)

    def answer(self, visit: Visit) -> Message:
        produced = visit.run()
        if not produced.leaving:
            return Message("outputs", produced.stats.fields(), produced.outputs)
        outputs, stats = _gather(visit.request, visit.partition, produced.leaving, visit.dispatcher)
        return Message("outputs", (produced.stats + stats).fields(), {**produced.outputs, **outputs})


class Hub(Flow):
    def infer(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        outputs: dict[str, Array] = {}
        total = NO_STATS
        while inputs:
            found, stats = _gather(request, partition, inputs, dispatcher)
            total += stats
            outputs.update((name, found[name]) for name in found if name in partition.plan.outputs)
            inputs = {name: found[name] for name in found if partition.destinations(name, request.route.local_calls)}
        return outputs, total

    def answer(self, visit: Visit) -> Message:
        produced = visit.run()
        return Message("outputs", produced.stats.fields(), {**produced.outputs, **produced.leaving})


class Forward(Flow):
    def infer(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        with receiver.expect(request, partition.plan.outputs) as pending:
            total = NO_STATS
            for delivery, lookups in dispatcher.directory.deliveries(pending.request, partition, inputs):
                _, stats = dispatcher.send(pending.request, delivery, carry=NO_STATS)
                total += lookups + RequestStats(connects=stats.connects)
            outputs, stats = pending.outputs()
            return outputs, total + stats

    def answer(self, visit: Visit) -> Message:
        if not visit.request.reply_to:
            raise MalformedMessage(
                "a request in the flow 'forward' needs 'reply_to', the address to which its outputs go"
            )
        visit.defer(self._steps(visit))
        return Message("accepted", NO_STATS.fields())

    def _steps(self, visit: Visit) -> Steps:
        request = visit.request
        queued_at = time.perf_counter()
        try:
            yield LOCAL
            visit.add_stats(RequestStats(queued=time.perf_counter() - queued_at))
            visit.add_carried_stats()
            produced = visit.run()
            visit.add_stats(produced.stats)
            for delivery, lookups in visit.dispatcher.directory.deliveries(request, visit.partition, produced.leaving):
                visit.add_stats(lookups)
                yield str(delivery.holder.address)
                _, sent = visit.dispatcher.send(request, delivery, carry=visit.take_stats())
                visit.add_stats(RequestStats(connects=sent.connects))
            if produced.outputs:
                yield request.reply_to
                visit.dispatcher.send_result(request, produced.outputs, visit.take_stats())
        except Exception as error:  # no caller receives it; without a notice the client waits until its deadline
            failure = as_wire_error(error)
            yield request.reply_to
            visit.dispatcher.send_failure(request, failure)


def _gather(
    request: Request, partition: Partition, leaving: Tensors, dispatcher: Dispatcher
) -> tuple[Tensors, RequestStats]:
    """Send the tensors `leaving`, one message after another, and gather the tensors and statistics of the answers."""
    outputs: dict[str, Array] = {}
    total = NO_STATS
    for delivery, lookups in dispatcher.directory.deliveries(request, partition, leaving):
        reply, stats = dispatcher.send(request, delivery)
        outputs.update(reply.tensors)
        total += stats + RequestStats.of(reply)
        if lookups is not NO_STATS:
            total += lookups
    return outputs, total


FLOWS: Mapping[str, Flow] = dict(zip(FLOW_NAMES, (Nested(), Hub(), Forward()), strict=True))
