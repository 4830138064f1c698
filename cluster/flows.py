"""Flows: who sends a stage's output on to the next. Compositions over `Courier.send`; no feature of a transport.

`nested`: a server sends each output to every server that awaits it and answers its caller only when these have
answered, so that the final outputs come back up the stack of calls. A server that still misses an input answers empty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.courier import Courier
from cluster.partition import Partition
from cluster.route import Request, Tally
from transports.base import Array

__all__ = ["FLOWS", "Flow", "nested"]

Outputs = dict[str, Array]
Flow = Callable[[Request, Partition, Mapping[str, Array], Mapping[str, frozenset[int]], Courier], tuple[Outputs, Tally]]
"""(request, partition, tensors that leave, servers that each goes to, courier) -> (outputs that came of it, cost)."""


def nested(
    request: Request,
    partition: Partition,
    leaving: Mapping[str, Array],
    to: Mapping[str, frozenset[int]],
    courier: Courier,
) -> tuple[Outputs, Tally]:
    """Send what leaves, and gather the final outputs that come back up. Client and server do the same."""
    outputs: Outputs = {}
    total = Tally()
    for parcel, asked in courier.parcels(request, partition, leaving, to):
        reply, cost = courier.send(request, parcel)
        outputs.update(reply.tensors)
        total = total + asked + cost + Tally.of(reply)
    return outputs, total


FLOWS: Mapping[str, Flow] = {"nested": nested}
