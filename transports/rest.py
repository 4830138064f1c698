"""`rest`: HTTP/1.1 and JSON over kept connections: urllib3 (`rest_client`) and uvicorn (`rest_server`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from transports import tls
from transports.address import Address
from transports.base import Connection, Handler, Server, Transport
from transports.limits import Limits
from transports.serving import guard
from transports.sockets import Deadline


class Rest(Transport):
    name = "rest"
    title = "REST"
    libraries: ClassVar[Mapping[str, str]] = {
        name: name for name in ("uvicorn", "httptools", "urllib3", "orjson", "pybase64")
    }
    secure = "tls"
    codecs = ("json", "json-b64")

    def __init__(self, options: Limits | None = None) -> None:
        super().__init__(options)
        self._tls = tls.load(self.options)

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        from transports.http_server import HttpServer
        from transports.rest_server import Messages

        messages = Messages(guard(handler, self.options, workers), self.options)
        threads = workers + (self.options.when_full == "refuse")  # one more to refuse calls
        return HttpServer(messages, Address(host, port), self.options.stall, threads, self._tls)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        from transports.rest_client import RestConnection
        from transports.socket_connection import dial

        codec = self.check_codec(codec)
        deadline = Deadline.after(timeout)
        return RestConnection(dial(address, self._tls, deadline), address, codec, self.options, deadline)
