"""Both ends of the RPyC transports, over RPyC's own connection and channel.

Rules:
  - A call is one round trip: the client fetches the remote method once, when it connects.
  - Only exact brine types cross the wire (`brine_codec`), and a peer can call one method of one object.
  - After a missed deadline or a lost peer the connection is closed: RPyC could take a late reply for the reply to the
    next call.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import rpyc

from transports import brine_codec, tls
from transports.address import Address
from transports.base import Handler, Message, Server, log
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import Limits
from transports.listener import Listener
from transports.rpyc_stream import BoundedChannel
from transports.serving import Guarded, guard, respond
from transports.socket_connection import SocketConnection
from transports.sockets import Deadline, DeadlineSocket

PROTOCOL: dict[str, Any] = {
    "allow_all_attrs": False,
    "allow_public_attrs": False,
    "allow_setattr": False,
    "allow_delattr": False,
    "allow_pickle": False,
    "include_local_traceback": False,
    "include_local_version": False,
    "logger": log,
    "sync_request_timeout": None,  # the socket has a deadline
}


class ValueConnection(rpyc.Connection):  # type: ignore[misc]
    """RPyC's connection, but it refuses references to objects of the peer, since using one would call the peer back."""

    takes_references = False

    def _netref_factory(self, id_pack: Any) -> Any:
        """The proxy for an object of the peer. Raises `MalformedMessage`."""
        if not self.takes_references:
            raise MalformedMessage("an object came by reference, and only values are taken")
        return super()._netref_factory(id_pack)


def serve(
    handler: Handler, address: Address, workers: int, options: Limits, own: tls.Tls | None, channel: MakeChannel
) -> Server:
    """Serve `handler` over RPyC. Raises `ConnectError` when the port cannot be bound."""
    guarded = guard(handler, options, workers)

    def serve_peer(sock: DeadlineSocket) -> None:
        converse(MessageService(guarded, sock.gone), channel(sock))

    return Listener(serve_peer, address, options.stall, own)


MakeChannel = Callable[[socket.socket], BoundedChannel]
"""A function that makes the channel over a connected socket; the channel takes over the socket."""


class MessageService(rpyc.Service):  # type: ignore[misc]
    """The service with the one method that a peer can call, which takes and returns plain tuples."""

    _protocol = ValueConnection

    def __init__(self, handler: Guarded, gone: Callable[[], bool]) -> None:
        self._handler = handler
        self._gone = gone

    def exposed_carry(self, request: object) -> brine_codec.Packed:
        return respond(self._handler, request, brine_codec.unpack, brine_codec.pack, self._gone)


def converse(service: rpyc.Service, channel: BoundedChannel) -> None:
    """Serve the calls of one peer until one of the ends closes. Raises RPyC's errors."""
    connection = service._connect(channel, PROTOCOL)
    try:
        while not connection.closed:
            _serve_one(connection, channel)
    finally:
        channel.close()  # before RPyC's connection, which would send a closing message to a peer that may be gone
        connection.close()


def _serve_one(connection: rpyc.Connection, channel: BoundedChannel) -> None:
    try:
        connection.serve(None)
    except MessageTooLarge as error:
        channel.refuse(str(error))


class RpycConnection(SocketConnection):
    protocol = "RPyC"

    def __init__(self, channel: BoundedChannel, address: Address, options: Limits, deadline: Deadline) -> None:
        self.channel = channel
        self._peer = ValueConnection(rpyc.VoidService(), channel, PROTOCOL)
        super().__init__(channel.stream.sock, address, options, deadline)

    def _meet(self) -> None:
        self._peer.takes_references = True  # the service and its method cross as references; nothing else may
        self._carry = self._peer.root.carry
        self._peer.takes_references = False

    def encode(self, message: Message) -> brine_codec.Packed:
        return brine_codec.pack(message)

    def _ask(self, request: brine_codec.Packed) -> object:
        return self._carry(request)

    def decode(self, answer: object) -> Message:
        return brine_codec.unpack(answer)

    def _violation(self, error: Exception) -> str:
        """The type of `error`, without the peer's text. Any error may be one, since RPyC raises what the peer sends."""
        return type(error).__name__

    def close(self) -> None:
        """Close without RPyC's own closing message, which would wait for a peer that may be busy or gone."""
        self.closed = True
        self.channel.close()
        self._peer.close()
