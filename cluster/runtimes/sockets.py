"""Plain sockets: the stages in processes of their own, in a chain of TCP connections, and nothing else.

A careful user would write it by hand for one model, one client and one request at a time: no registry, no limits, no
retries, no statistics. So it is a lower bound for every transport, and shows what it costs to spread stages over
processes.
"""

from __future__ import annotations

import contextlib
import select
import socket
import uuid
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from cluster.config import SocketServerConfig
from cluster.errors import StageFailed
from cluster.launchers import Order
from cluster.manifest import of_portion
from cluster.partition import Partition
from cluster.runtimes.base import Infer, Runtime, Servers, tasks_of
from cluster.runtimes.socket_frames import connected, receive, send
from cluster.runtimes.socket_server import DIAL, HOLD, Hold
from transports.address import Address
from transports.base import Array
from transports.errors import ConnectionLost, DeadlineExceeded
from transports.sockets import Deadline


class SocketServers(Servers):
    title = "socket-server"

    def _start(self) -> None:
        setup = self.setup
        with setup.exported() as (files, contents):
            for number, name in enumerate(self._names):
                config = SocketServerConfig(
                    server=number,
                    files=of_portion(files, number),
                    device=setup.device.share(number),
                    threads=setup.threads,
                    malloc=setup.malloc,  # type: ignore[arg-type]
                )
                self.launcher.start(Order(name, config, contents))


class Sockets(Runtime):
    """A partition as a chain of tasks: each server sends on what later tasks and the client need."""

    title = "Plain sockets"
    secure = "this machine alone"
    engines = ("eager", "graph", "frozen")
    overlaps = False
    processes = SocketServers
    system: SocketServers

    @contextlib.contextmanager
    def deploy(self, partition: Partition, engine: str) -> Iterator[Infer]:
        crossing, chain = carried(partition), uuid.uuid4().hex
        addresses = [self.system.addresses[task.server] for task in tasks_of(partition)]
        keys = [f"{chain}-{place}" for place in range(len(addresses))]
        with contextlib.ExitStack() as stack:
            peers = []
            for place, address in enumerate(addresses):
                key, names = keys[place], (crossing[place], crossing[place + 1])
                then = (keys[place + 1], str(addresses[place + 1])) if key != keys[-1] else (key, "")
                order = Hold(key, partition.name, engine, place, *names, *then)
                peers.append(stack.enter_context(_held(address, order)))
            yield _Chain(peers, keys[0], crossing[0], crossing[-1]).infer


@contextlib.contextmanager
def _held(address: Address, order: Hold) -> Iterator[socket.socket]:
    """A connection to a server that has accepted `order`, which holds while it is open. Raises `ConnectionLost`."""
    try:
        with connected(address, DIAL) as sock:
            send(sock, HOLD + msgspec.json.encode(order).decode(), [])
            receive(sock)
            yield sock
    except (EOFError, OSError) as error:
        raise ConnectionLost(f"plain sockets lost a server: {error}") from error


class _Chain:
    """Connections to the servers of all tasks. Requests go to the first server, and answers come from the last."""

    def __init__(self, peers: Sequence[socket.socket], key: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """`key`: the key of a request's frame. `inputs`, `outputs`: the tensor names of a request and of its answer."""
        self._peers, self._key, self._inputs, self._outputs = peers, key, inputs, outputs
        self._poll = select.poll()
        for peer in peers:
            self._poll.register(peer, select.POLLIN)
        self._usable = True

    def infer(self, inputs: Mapping[str, Array], timeout: float) -> Mapping[str, Array]:
        """Run one request; see `Infer`."""
        if not self._usable:
            raise ConnectionLost("plain sockets lost an earlier request, whose answer may still come")
        self._usable = False
        deadline = Deadline.after(timeout)
        try:
            send(self._peers[0], self._key, [inputs[name] for name in self._inputs])
            ready = {descriptor for descriptor, _ in self._poll.poll(1000 * deadline.left())}
            if not ready:
                raise DeadlineExceeded(f"plain sockets did not answer within {timeout:.3g} s")
            if ready != {self._peers[-1].fileno()}:
                raise ConnectionLost("plain sockets lost a server")
            description, arrays = receive(self._peers[-1])
        except (EOFError, OSError) as error:
            raise ConnectionLost(f"plain sockets lost a server: {error}") from error
        self._usable = True
        if description.error:
            raise StageFailed(description.error)
        return dict(zip(self._outputs, arrays, strict=True))


def carried(partition: Partition) -> list[tuple[str, ...]]:
    """The tensors that a request carries before each task, and after the last task: all that are still needed then."""
    tasks, plan = tasks_of(partition), partition.plan
    found = [tuple(plan.outputs)]
    for task in reversed(tasks):
        needed = dict.fromkeys((*task.inputs, *(name for name in found[0] if name not in task.outputs)))
        found.insert(0, tuple(needed))
    return found
