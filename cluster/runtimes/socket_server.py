"""A server of the runtime `sockets`: executes its tasks, and sends the results to the next server.

A frame is either an order of the client, whose tensors are empty and whose key begins with `HOLD`, or the tensors of a
request. The server of the last task sends them back over the connection on which its order came.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from cluster.config import SocketServerConfig
from cluster.errors import StageFailed
from cluster.execution import Shard
from cluster.model_servers.client import ModelServerClients
from cluster.node_server import Shards, load_shards
from cluster.runtimes.base import execute, tasks_of
from cluster.runtimes.socket_frames import connected, receive, send
from transports.address import Address
from transports.base import Array
from transports.listener import bind_port

HOLD = "hold "
DIAL = 10.0
"""Seconds within which the next server has to accept a connection."""


class Hold(msgspec.Struct):
    """An order: execute the task at `place` of a partition for each frame with `key`."""

    key: str
    partition: str
    engine: str
    place: int
    arriving: tuple[str, ...]
    """Names of the tensors that arrive in a frame, in order."""
    leaving: tuple[str, ...]
    """Names of the tensors that go to the next task, or to the client after the last one."""
    leaving_as: str
    """The key of the frame for the next task, or for the client."""
    then: str
    """HOST:PORT of the server of the next task; empty: send the results over this connection, to the client."""


Handle = Callable[[Sequence[Array], str], None]
"""A function that handles a frame: (its tensors, its error text)."""


def serve(config: SocketServerConfig) -> dict[str, Address]:
    """Load the portion, and serve until the process ends."""
    shards = load_shards(Path(config.folder), config.files, config.server, ModelServerClients([]))
    listener, address = bind_port(Address(config.bind, 0))
    threading.Thread(target=_accept, args=(listener, shards), daemon=True).start()
    return {"tcp": address}


def _accept(listener: socket.socket, shards: Shards) -> None:
    held: dict[str, Handle] = {}
    while True:
        sock, _ = listener.accept()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_converse, args=(sock, shards, held), daemon=True).start()


def _converse(sock: socket.socket, shards: Shards, held: dict[str, Handle]) -> None:
    """Answer the frames of one peer. If the connection fails, it is closed, with the connections that depend on it."""
    own: set[str] = set()
    with sock, contextlib.suppress(EOFError, OSError), contextlib.ExitStack() as stack:
        stack.callback(lambda: [held.pop(key) for key in own])
        while True:
            description, arrays = receive(sock)
            if description.key.startswith(HOLD):
                order = msgspec.json.decode(description.key.removeprefix(HOLD), type=Hold)
                target = sock
                if order.then:
                    target = stack.enter_context(connected(Address.parse(order.then), DIAL))
                held[order.key] = _handler(order, shards[order.partition, order.engine], target)
                own.add(order.key)
                send(sock, order.key, [])
            else:
                held[description.key](arrays, description.error)


def _handler(order: Hold, shard: Shard, target: socket.socket) -> Handle:
    task = tasks_of(shard.partition)[order.place]

    def handle(arrays: Sequence[Array], error: str) -> None:
        leaving: list[Array] = []
        if not error:
            try:
                leaving = execute(shard, task, dict(zip(order.arriving, arrays, strict=True)), order.leaving)
            except StageFailed as failed:
                error = str(failed)
        send(target, order.leaving_as, leaving, error)

    return handle
