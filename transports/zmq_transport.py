"""`zmq`: ZeroMQ as users of pyzmq use it: a ROUTER at the server, a DEALER for each connection, over TCP."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from transports.address import Address
from transports.base import Connection, Handler, Server, Transport
from transports.errors import UsageError
from transports.limits import Limits
from transports.sockets import Deadline
from transports.zmq_options import CURVE, ZmqOptions, load


class Zmq(Transport):
    name = "zmq"
    title = "ZeroMQ"
    libraries: ClassVar[Mapping[str, str]] = {"zmq": "pyzmq"}
    secure = "curve"
    Options: ClassVar[type[Limits]] = ZmqOptions
    options: ZmqOptions

    def __init__(self, options: Limits | None = None) -> None:
        """Raises `UsageError` for TLS files, and for CURVE files that cannot be used."""
        own = options if isinstance(options, ZmqOptions) else ZmqOptions(**vars(options or Limits()))
        if own.tls:
            text = "transport 'zmq' has no TLS; its own protection is CURVE: leave the TLS files out, and give"
            raise UsageError(f"tls_cert: {text} {', '.join(f'zmq.{name}' for name in CURVE)}")
        super().__init__(own)
        self._curve = load(own) if own.protected else None

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        from transports.zmq_server import ZmqServer

        return ZmqServer(handler, Address(host, port), workers, self.options, self._curve)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        from transports.zmq_client import ZmqConnection

        self.check_codec(codec)
        return ZmqConnection(address, self.options, self._curve, Deadline.after(timeout))
