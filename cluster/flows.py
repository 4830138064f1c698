"""Flows: who sends a stage's output on to the next. Compositions over `Dispatcher.send`; no feature of a transport.

`nested`    a server sends its outputs to every server that awaits them and answers its caller only when these have
            answered: the model's outputs come back up the stack of calls. A server that still misses an input answers
            empty. Each server waits in a worker of its own, as deep as the stack is.
`hub`       a server answers its caller with what it has computed; the client sends it on. No server calls another.
`forward`   a server acknowledges, computes later, and hands on; the model's outputs go to an address of the client's.
            No call waits for another one's computation, so that requests follow each other through the servers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Protocol

from cluster.dispatcher import Dispatcher
from cluster.lanes import HERE
from cluster.partition import Partition
from cluster.request import Request, RequestStats
from cluster.result_receiver import ResultReceiver
from transports.base import Array, Message, as_wire_error

Tensors = Mapping[str, Array]

Errand = Generator[str, None, None]
"""What is done about a message after it was acknowledged, step by step. Before each it yields the lane where that is to
be done (`cluster.lanes`): an address that is sent to, or `HERE`. What is raised there says that it will not be done."""


@dataclass(frozen=True)
class Produced:
    """What executing stages at one server gave."""

    outputs: Tensors
    """The model's own."""
    leaving: Tensors
    """What other servers await."""
    cost: RequestStats


class Visit(Protocol):
    """The coming of a message to a server: what a flow has to do with there."""

    @property
    def request(self) -> Request: ...
    @property
    def partition(self) -> Partition: ...
    @property
    def dispatcher(self) -> Dispatcher: ...

    def run(self) -> Produced:
        """Execute what the message's tensors complete."""

    def later(self, errand: Errand) -> None:
        """Have `errand` done once there is time. Raises `ResourceExhausted` where too much waits already."""

    def carried(self) -> None:
        """Note what the message says that its request has cost, its own carriage included."""

    def owe(self, cost: RequestStats) -> None:
        """Note what this request has cost here: the next message about it carries the sum on."""

    def settle(self) -> RequestStats:
        """Everything owed since this was last asked."""


class Flow(ABC):
    """The client's part and a server's part."""

    waits: bool = False
    """Whether a server waits in a call for what other servers compute."""

    @abstractmethod
    def ask(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        """Send the model's inputs; the model's outputs that came of it, and what that cost."""

    @abstractmethod
    def answer(self, visit: Visit) -> Message:
        """What a server answers to the sender of tensors."""


class Nested(Flow):
    waits = True

    def ask(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        return _gather(request, partition, inputs, dispatcher)

    def answer(self, visit: Visit) -> Message:
        produced = visit.run()
        outputs, cost = _gather(visit.request, visit.partition, produced.leaving, visit.dispatcher)
        return Message("outputs", (produced.cost + cost).fields(), {**produced.outputs, **outputs})


class Hub(Flow):
    def ask(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        outputs: dict[str, Array] = {}
        total = RequestStats()
        while inputs:
            found, cost = _gather(request, partition, inputs, dispatcher)
            total += cost
            outputs.update((name, found[name]) for name in found if name in partition.plan.outputs)
            inputs = {name: found[name] for name in found if partition.destinations(name, request.route.local_calls)}
        return outputs, total

    def answer(self, visit: Visit) -> Message:
        produced = visit.run()
        return Message("outputs", produced.cost.fields(), {**produced.outputs, **produced.leaving})


class Forward(Flow):
    def ask(
        self, request: Request, partition: Partition, inputs: Tensors, dispatcher: Dispatcher, receiver: ResultReceiver
    ) -> tuple[Tensors, RequestStats]:
        with receiver.expect(request, partition.plan.outputs) as awaited:
            total = RequestStats()
            for delivery, asked in dispatcher.deliveries(awaited.request, partition, inputs):
                _, cost = dispatcher.send(awaited.request, delivery, carry=RequestStats())
                total = total + asked + RequestStats(connects=cost.connects)
            outputs, cost = awaited.outputs()
            return outputs, total + cost

    def answer(self, visit: Visit) -> Message:
        visit.later(self._hand_on(visit))
        return Message("accepted", RequestStats().fields())

    def _hand_on(self, visit: Visit) -> Errand:
        request = visit.request
        try:
            yield HERE
            visit.carried()
            produced = visit.run()
            visit.owe(produced.cost)
            for delivery, asked in visit.dispatcher.deliveries(request, visit.partition, produced.leaving):
                visit.owe(asked)
                yield str(delivery.holder.address)
                _, sent = visit.dispatcher.send(request, delivery, carry=visit.settle())
                visit.owe(RequestStats(connects=sent.connects))
            if produced.outputs:
                yield request.reply_to
                visit.dispatcher.deliver(request, produced.outputs, visit.settle())
        except Exception as error:  # nobody waits for this call: the client is told, or it would wait for its deadline
            failure = as_wire_error(error)
            yield request.reply_to
            visit.dispatcher.report_failure(request, failure)


def _gather(
    request: Request, partition: Partition, leaving: Tensors, dispatcher: Dispatcher
) -> tuple[Tensors, RequestStats]:
    """Send what leaves, one message after the other, and gather what is answered."""
    outputs: dict[str, Array] = {}
    total = RequestStats()
    for delivery, asked in dispatcher.deliveries(request, partition, leaving):
        reply, cost = dispatcher.send(request, delivery)
        outputs.update(reply.tensors)
        total = total + asked + cost + RequestStats.of(reply)
    return outputs, total


FLOWS: Mapping[str, Flow] = {"nested": Nested(), "hub": Hub(), "forward": Forward()}
