"""`shm`: tensors in shared memory, and everything else over a Unix socket, as over `unix`."""

from __future__ import annotations

from functools import partial

from transports.address import Address
from transports.base import Connection, Handler, Server
from transports.errors import UsageError
from transports.limits import Limits
from transports.plain_sockets import Unix
from transports.serving import guard
from transports.shm_socket import ShmSocket
from transports.sockets import Deadline


class Shm(Unix):
    name = "shm"
    title = "Shared memory"
    in_memory = True
    Socket = ShmSocket

    def __init__(self, options: Limits | None = None) -> None:
        """Raises `UsageError` if the system lacks `memfd_create`, and for TLS files."""
        super().__init__(options)
        from transports.shm_memory import check

        try:
            check()
        except OSError as error:
            raise UsageError(
                f"transport 'shm' needs memory that processes share: {error.strerror or error}; take 'unix'"
            ) from None

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        from transports.frames import converse
        from transports.listener import Listener
        from transports.shm_memory import ShmStream

        talk = partial(converse, guard(handler, self.options, workers), self.options, Stream=ShmStream)
        return Listener(talk, Address(host, port), self.options.stall, None, self.bind)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        from transports.shm_memory import ShmConnection

        self.check_codec(codec)
        deadline = Deadline.after(timeout)
        return ShmConnection(self.dial(address, deadline), address, self.options, deadline)
