"""The workers that a server needs so that nested calls cannot block it, computed from the partition alone.

In the flow `nested`, each call that waits for another server occupies a worker. A server that is called again by a
server further down the stack needs another worker. With fewer workers than calls in the deepest such stack, the server
blocks for ever. The function follows the calls in the order in which nodes make them; it sends and executes nothing.
"""

from __future__ import annotations

from collections import Counter

from cluster.partition import Partition
from cluster.pending import PendingInputs, Values, cascade
from cluster.segments import Segment, segments_of


def workers_needed(partition: Partition, *, local_calls: bool, send: str) -> int:
    """The largest number of calls that one server has open at once, for one request in the flow `nested`."""
    portions = [partition.portion(server) for server in range(partition.servers)]
    pending = [PendingInputs(segments_of(stages, local_calls)) for stages in portions]

    def deliver(server: int, names: tuple[str, ...]) -> tuple[str, ...]:
        """The tensors that leave `server` after the tensors `names` have arrived there."""
        made: list[str] = []

        def execute(segment: Segment, inputs: Values) -> Values:
            made.extend(name for stage in segment.stages for name in stage.outputs)
            return dict.fromkeys(segment.outputs)

        cascade(pending[server].put, dict.fromkeys(names), execute)
        return tuple(made)

    most: Counter[int] = Counter()
    # The calls of a layer-wise plan are hundreds deep: a list is the stack, not Python's own.
    inputs = tuple(name for name in partition.plan.inputs if name in partition.consumers)
    stack = [iter(partition.messages(inputs, local_calls, send))]
    servers: list[int] = []
    while stack:
        if (call := next(stack[-1], None)) is None:
            stack.pop()
            del servers[-1:]
            continue
        server, names = call
        servers.append(server)
        most[server] = max(most[server], servers.count(server))
        stack.append(iter(partition.messages(deliver(server, names), local_calls, send)))
    return max(most.values())
