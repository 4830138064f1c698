"""`rpyc`: RPyC with its defaults. `rpyc-tuned`: RPyC without the three defaults that cost most time with tensors.

Both keep RPyC's frames, brine and round trips, and replace the parts that a hostile or stalled peer could exploit
(`rpyc_stream`). Both ends of a connection must be of the same kind.

    rpyc         zlib 1 on every frame above 3,000 bytes, no TCP_NODELAY, pieces of 64,000 bytes
    rpyc-tuned   no compression, TCP_NODELAY at both ends, frames sent in one piece and received into one buffer
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from transports import tls
from transports.address import Address
from transports.base import Connection, Handler, Server, Transport
from transports.limits import Limits
from transports.sockets import Deadline

if TYPE_CHECKING:
    from transports.rpyc_stream import BoundedChannel


class RpycStock(Transport):
    name = "rpyc"
    title = "RPyC"
    libraries: ClassVar[Mapping[str, str]] = {"rpyc": "rpyc"}
    secure = "tls"

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        from transports import rpyc_ends

        return rpyc_ends.serve(handler, Address(host, port), workers, self.options, self._tls, self.channel)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        from transports.rpyc_ends import RpycConnection
        from transports.socket_connection import dial

        self.check_codec(codec)
        deadline = Deadline.after(timeout)
        sock = dial(address, self._tls, deadline)
        return RpycConnection(self.channel(sock), address, self.options, deadline)

    def channel(self, sock: socket.socket) -> BoundedChannel:
        """The channel over the connected `sock`, which it takes over. The two transports differ in nothing else."""
        from transports.rpyc_stream import BoundedChannel, DeadlineStream

        return BoundedChannel(DeadlineStream.over(sock), compress=True, limit=self.options.max_message)


class RpycTuned(RpycStock):
    name = "rpyc-tuned"
    title = "RPyC tuned"

    def channel(self, sock: socket.socket) -> BoundedChannel:
        from transports.rpyc_stream import WholeChannel, WholeStream

        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return WholeChannel(WholeStream.over(sock), compress=False, limit=self.options.max_message)
