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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import rpyc

from transports import brine_codec, tls
from transports.base import (
    Address,
    Connection,
    Guarded,
    Handler,
    Limits,
    Message,
    Server,
    Transport,
    check_message,
    guard,
    raise_error,
    respond,
)
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, MessageTooLarge, RemoteError, WireError
from transports.rpyc_stream import BoundedChannel, DeadlineStream, ThreadedServer
from transports.sockets import Expired

__all__ = ["RpycConnection", "RpycServer", "RpycStock"]

PROTOCOL: dict[str, Any] = {
    "allow_all_attrs": False,
    "allow_public_attrs": False,
    "allow_setattr": False,
    "allow_delattr": False,
    "allow_pickle": False,
    "include_local_traceback": False,
    "include_local_version": False,
}


class RpycStock(Transport):
    """RPyC's defaults, with mutual TLS where the options name its files."""

    name = "rpyc"

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        service = CarrierService(guard(handler, self.options, workers))
        try:
            server = ThreadedServer(service, host, port, PROTOCOL, self._accepted, self.options.stall)
        except OSError as error:
            raise ConnectError(f"cannot bind {host}:{port}: {error}") from None
        return RpycServer(server, host)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0) -> Connection:
        self.check_codec(codec)
        try:
            sock = socket.create_connection(address, timeout)
            channel = self.channel(tls.dialled(sock, address.host, self._tls))
        except OSError as error:
            raise ConnectError(f"no connection to {address}: {error}") from None
        return RpycConnection(channel, address, self.options, timeout)

    def _accepted(self, sock: socket.socket) -> BoundedChannel:
        return self.channel(tls.accepted(sock, self._tls))

    def channel(self, sock: socket.socket) -> BoundedChannel:
        """The channel over a connected `sock`, which it takes over: at either end, all that a subclass changes."""
        return BoundedChannel(DeadlineStream.over(sock), compress=True, limit=self.options.max_message)


class CarrierService(rpyc.Service):  # type: ignore[misc]
    """What a peer can reach: one method, which takes and gives plain tuples."""

    def __init__(self, guarded: Guarded, handler: Handler | None = None) -> None:
        self._guarded = guarded
        self._handler = handler or guarded

    def _connect(self, channel: BoundedChannel, config: Mapping[str, Any] = {}) -> Any:
        """What RPyC has answer one connection: a service that knows its peer."""
        own = CarrierService(self._guarded, partial(self._guarded, gone=channel.stream.gone))
        return super(CarrierService, own)._connect(channel, config)

    def exposed_carry(self, request: object) -> brine_codec.Packed:
        return respond(self._handler, request, brine_codec.unpack, brine_codec.pack)


class RpycServer(Server):
    def __init__(self, server: ThreadedServer, host: str) -> None:
        self._server = server
        self.address = Address(host, server.port)

    def close(self) -> None:
        """A handler that is still running is waited for, for a few seconds; its caller is told at once."""
        self._server.close()


class RpycConnection(Connection):
    """Raises `ConnectError` when the peer does not serve our one method within `timeout` seconds."""

    def __init__(self, channel: BoundedChannel, address: Address, options: Limits, timeout: float) -> None:
        self.channel = channel
        self._address = address
        self._options = options
        self._peer = rpyc.VoidService._connect(channel, {**PROTOCOL, "sync_request_timeout": timeout})
        try:
            with self._errors(timeout):
                channel.stream.sock.greet()
                self._carry = rpyc.async_(self._peer.root.carry)
        except WireError as error:
            self.close()
            raise ConnectError(f"nobody serves splitbench over RPyC there: {error}") from None

    def call(self, message: Message, timeout: float) -> Message:
        if self.closed:
            raise ConnectionLost(f"the connection to {self._address} is closed")
        request = brine_codec.pack(check_message(message, self._options))
        with self._errors(timeout):
            result = self._carry(request)
            result.set_expiry(self.channel.stream.left())
            reply = result.value
        return check_message(raise_error(brine_codec.unpack(reply)), self._options)

    @contextmanager
    def _errors(self, timeout: float) -> Iterator[None]:
        """The one place where what RPyC and sockets raise becomes an error of ours."""
        self.channel.stream.expire_in(timeout)
        try:
            yield
        except MessageTooLarge:  # the frame was thrown away whole: the connection is still in step
            raise
        except (Expired, TimeoutError):
            raise self._dropped(DeadlineExceeded(f"{self._address} gave no answer within {timeout:g} s")) from None
        except (EOFError, OSError) as error:
            raise self._dropped(ConnectionLost(f"{self._address} went away: {error}")) from None
        except Exception as error:
            raise self._dropped(RemoteError(f"{self._address} broke the protocol: {type(error).__name__}")) from None

    def _dropped(self, error: WireError) -> WireError:
        self.close()
        return error

    def close(self) -> None:
        """Without RPyC's farewell, which would wait for a peer that may be busy or gone."""
        self.closed = True
        self.channel.close()
        self._peer.close()
