"""`grpc` and `grpc-tuned`: the same calls and channels, with and without protobuf.

grpc         as users of gRPC write it: protobuf messages with `bytes` fields, one channel to a peer for all threads
grpc-tuned   the bytes of the tensors beside a small description (`frame_codec`)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from transports import tls
from transports.address import Address
from transports.base import Connection, Handler, Server, Transport
from transports.grpc_options import GrpcOptions
from transports.limits import Limits
from transports.sockets import Deadline

if TYPE_CHECKING:
    from transports.grpc_client import Link


class Grpc(Transport):
    name = "grpc"
    title = "gRPC"
    libraries: ClassVar[Mapping[str, str]] = {"grpc": "grpcio", "google.protobuf": "protobuf"}
    secure = "tls"
    codecs: ClassVar[tuple[str, ...]] = ("raw", "tensorproto")
    methods: ClassVar[Mapping[str, str]] = {"raw": "raw", "tensorproto": "tensorproto"}
    """Codec, as the user names it -> its key in `grpc_server.METHODS`."""
    shares_links = True
    Options: ClassVar[type[Limits]] = GrpcOptions
    options: GrpcOptions

    def __init__(self, options: Limits | None = None) -> None:
        own = options if isinstance(options, GrpcOptions) else GrpcOptions(**vars(options or Limits()))
        super().__init__(own)
        self._tls = tls.load(self.options)
        self._lock = threading.Lock()
        self._links: dict[Address, Link] = {}

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        from transports.grpc_server import GrpcServer

        return GrpcServer(handler, Address(host, port), workers, self.options, self._tls)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        from transports.grpc_client import GrpcConnection

        codec = self.methods[self.check_codec(codec)]
        link, fresh = self._link(address, Deadline.after(timeout), shared)
        return GrpcConnection(link, fresh, address, codec, self.options)

    def _link(self, address: Address, deadline: Deadline, shared: bool) -> tuple[Link, bool]:
        """A channel to `address`, and whether it was made for this call."""
        from transports.grpc_client import Link

        with self._lock:
            if shared and (known := self._links.get(address)) and known.take():
                return known, False
        made = Link.to(address, self.options, self._tls, deadline)
        if not shared:
            return made, True
        with self._lock:
            if (known := self._links.get(address)) and known.take():  # another thread has made a channel meanwhile
                made.give_back()
                return known, False
            self._links[address] = made
        return made, True


class GrpcTuned(Grpc):
    name = "grpc-tuned"
    title = "gRPC tuned"
    codecs: ClassVar[tuple[str, ...]] = ("raw",)
    Options = Limits
    methods: ClassVar[Mapping[str, str]] = {"raw": "frame"}
