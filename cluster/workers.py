"""How many calls a server must handle at a time so that nothing blocks: found by walking the calls before any is made.

In the flow `nested` a server waits in every call that it has made. A server that is reached again from further down the
stack needs another worker for that, so that a pool smaller than the deepest such stack blocks for good. The walk sends
nothing and executes nothing: it moves tensor names through the same inboxes, in the order in which nodes send.
"""

from __future__ import annotations

from collections import Counter
from math import inf

from cluster.dispatcher import bundles
from cluster.inbox import Inbox
from cluster.partition import Partition


def workers_needed(partition: Partition, *, local_calls: bool, send: str) -> int:
    """The most calls that any one server has open at once for one request in the flow `nested`."""
    walk = _Walk(partition, local_calls=local_calls, send=send)
    walk.run({name: partition.consumers[name] for name in partition.plan.inputs if name in partition.consumers})
    return max(walk.most.values())


class _Walk:
    def __init__(self, partition: Partition, *, local_calls: bool, send: str) -> None:
        self._partition = partition
        self._local_calls = local_calls
        self._send = send
        self._inboxes = [Inbox(partition.portion(server)) for server in range(partition.servers)]
        self.most: Counter[int] = Counter()

    def run(self, to: dict[str, frozenset[int]]) -> None:
        """Deliver each tensor to its servers, one after the other, each with all that follows from it.

        The calls of a layer-wise plan are hundreds deep, so that the stack is a list and not Python's own.
        """
        stack = [iter(bundles(to, self._send))]
        servers: list[int] = []
        while stack:
            call = next(stack[-1], None)
            if call is None:
                stack.pop()
                del servers[-1:]
                continue
            servers.append(call[0])
            self.most[call[0]] = max(self.most[call[0]], servers.count(call[0]))
            stack.append(iter(bundles(self._deliver(*call), self._send)))

    def _deliver(self, server: int, names: list[str]) -> dict[str, frozenset[int]]:
        leaving = {}
        arrived = dict.fromkeys(names)
        nothing = lambda stage, inputs: [None] * len(stage.outputs)  # noqa: E731
        for _, outputs in self._inboxes[server].cascade("walk", inf, arrived, nothing, local_calls=self._local_calls):
            for name in outputs:
                leaving[name] = self._partition.destinations(name, self._local_calls)
        return {name: servers for name, servers in leaving.items() if servers}
