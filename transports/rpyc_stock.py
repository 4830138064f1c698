"""`rpyc`: RPyC as it comes, on its own sockets and its own channel.

Kept as RPyC has them: zlib 1 on every frame above 3,000 bytes, no TCP_NODELAY, pieces of 64,000 bytes. Changed where a
peer could otherwise hang or flood an end: a deadline that also holds inside a frame, and a length that is checked
before memory is taken for it (`rpyc_stream`).

Rules:
  - A call is one round trip: the remote method is fetched once, when the connection is made.
  - Nothing but exact brine types crosses (`brine_codec`), and nothing of an object is reachable but the one method.
  - After a deadline or a lost peer the connection is dropped, since RPyC could not tell a late reply from the next.
"""

from __future__ import annotations

import socket
from functools import partial
from typing import Any

import rpyc
from rpyc.core.consts import LABEL_REMOTE_REF

from transports import brine_codec, tls
from transports.address import Address
from transports.base import (
    Connection,
    Handler,
    Message,
    Server,
    Transport,
    check_message,
    guard,
    log,
    raise_error,
    respond,
)
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import Limits
from transports.listener import Listener
from transports.rpyc_stream import BoundedChannel, DeadlineStream
from transports.socket_connection import SocketConnection, dial
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
}


class ValueConnection(rpyc.Connection):  # type: ignore[misc]
    """RPyC's connection, which takes no reference to an object at its other end: RPyC would call that end back."""

    takes_references = False

    def _unbox(self, package: Any) -> Any:
        """What brine brought. Raises `MalformedMessage`."""
        if package[0] == LABEL_REMOTE_REF and not self.takes_references:
            raise MalformedMessage("an object came by reference, and only values are taken")
        return super()._unbox(package)


class RpycStock(Transport):
    """RPyC's defaults, with mutual TLS where the options name its files."""

    name = "rpyc"

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        guarded = guard(handler, self.options, workers)

        def serve_peer(sock: DeadlineSocket) -> None:
            converse(CarrierService(partial(guarded, gone=sock.gone)), self.channel(sock))

        return Listener(serve_peer, Address(host, port), self.options.stall, self._tls)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0) -> Connection:
        self.check_codec(codec)
        deadline = Deadline.after(timeout)
        sock = dial(address, self._tls, deadline)
        return RpycConnection(self.channel(sock), address, self.options, deadline)

    def channel(self, sock: socket.socket) -> BoundedChannel:
        """The channel over a connected `sock`, which it takes over: at either end, all that a subclass changes."""
        return BoundedChannel(DeadlineStream.over(sock), compress=True, limit=self.options.max_message)


class CarrierService(rpyc.Service):  # type: ignore[misc]
    """What a peer can reach: one method, which takes and gives plain tuples."""

    _protocol = ValueConnection

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def exposed_carry(self, request: object) -> brine_codec.Packed:
        return respond(self._handler, request, brine_codec.unpack, brine_codec.pack)


def converse(service: rpyc.Service, channel: BoundedChannel) -> None:
    """Let the peer at the other end of `channel` call `service` until one of them closes. Raises what RPyC does."""
    connection = service._connect(channel, PROTOCOL)
    try:
        while not connection.closed:
            _serve_one(connection, channel)
    finally:
        channel.close()  # first, or RPyC says farewell to a peer that may be gone
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
        # RPyC's own wait for the first answer; those of later calls are set with each.
        self._peer = ValueConnection(rpyc.VoidService(), channel, {**PROTOCOL, "sync_request_timeout": deadline.given})
        super().__init__(channel.stream.sock, address, options, deadline)

    def _meet(self) -> None:
        self._peer.takes_references = True  # to the service and its method, and to nothing after that
        self._carry = rpyc.async_(self._peer.root.carry)
        self._peer.takes_references = False

    def call(self, message: Message, timeout: float) -> Message:
        deadline = Deadline.after(timeout)
        request = brine_codec.pack(check_message(message, self._options))
        with self._until(deadline):
            result = self._carry(request)
            result.set_expiry(deadline.left())
            reply = result.value
        return check_message(raise_error(brine_codec.unpack(reply)), self._options)

    def _violation(self, error: Exception) -> str:
        """Whatever it is: RPyC raises of every type what a peer sent. Not its text, which is the peer's too."""
        return type(error).__name__

    def close(self) -> None:
        """Without RPyC's farewell, which would wait for a peer that may be busy or gone."""
        self.closed = True
        self.channel.close()
        self._peer.close()
