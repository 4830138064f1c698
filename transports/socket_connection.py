"""Connections over sockets of this package: a deadline for each call, and one place that maps errors.

Rules:
  - The deadline holds for a whole call, not for each read.
  - A failure closes the connection, since a late answer could be taken for the answer to the next call. The exception
    is a message above a limit: it was read to its end and discarded, so both ends are still in step.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from typing import Any, ClassVar

from transports import tls
from transports.address import Address
from transports.base import Connection
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, MessageTooLarge, RemoteError, WireError
from transports.limits import Limits
from transports.sockets import Deadline, DeadlineSocket, Expired


def dial(address: Address, own: tls.Tls | None, deadline: Deadline) -> DeadlineSocket:
    """A socket connected to `address`, before the TLS handshake, which `greet` does. Raises `ConnectError`."""
    try:
        return tls.dialled(socket.create_connection(address, deadline.left()), address.host, own)
    except (OSError, ValueError, OverflowError) as error:  # the last two: an unusable host name or port number
        raise ConnectError(f"no connection to {address}: {error}") from None


class SocketConnection(Connection):
    """Takes over the connected `sock`. Raises `ConnectError` unless a server of splitbench is ready by `deadline`."""

    protocol: ClassVar[str]
    """The protocol's name in error texts."""

    def __init__(self, sock: DeadlineSocket, address: Address, options: Limits, deadline: Deadline) -> None:
        super().__init__(address, options)
        self.sock = sock
        sock.deadline = deadline.moment
        try:
            sock.greet()
            self._meet()
        except BaseException as error:
            self.close()
            mapped = self._mapped(error, deadline) if isinstance(error, Exception) else error
            if isinstance(mapped, WireError):
                raise ConnectError(f"nobody serves splitbench over {self.protocol} there: {mapped}") from None
            raise

    def exchange(self, request: Any, deadline: Deadline) -> Any:
        self.sock.deadline = deadline.moment
        try:
            return self._ask(request)
        except Exception as error:
            mapped = self._mapped(error, deadline)
            if not isinstance(mapped, MessageTooLarge):
                self.close()
            raise mapped from None

    @abstractmethod
    def _meet(self) -> None:
        """Check, on a new connection, that the peer serves splitbench. Raises the library's errors."""

    @abstractmethod
    def _ask(self, request: Any) -> Any:
        """The answer to `request`. Raises the errors of the socket and the library, and `MessageTooLarge`."""

    @abstractmethod
    def _violation(self, error: Exception) -> str | None:
        """How the peer violated the protocol, if `error` shows a violation; else None."""

    def _mapped(self, error: Exception, deadline: Deadline) -> Exception:
        """The `WireError` for `error`, or `error` itself if neither the socket nor the library raises such errors."""
        if isinstance(error, MessageTooLarge):
            return error
        if isinstance(error, (Expired, TimeoutError)):
            return DeadlineExceeded(f"{self.address} gave no answer within {deadline.given:.3g} s")
        if isinstance(error, (EOFError, OSError)):
            return ConnectionLost(f"{self.address} went away: {error}")
        broken = self._violation(error)
        return error if broken is None else RemoteError(f"{self.address} broke the protocol: {broken}")

    def stale(self) -> bool:
        return self.closed or self.sock.readable(0)

    def close(self) -> None:
        self.closed = True
        self.sock.close()
