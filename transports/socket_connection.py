"""Connections over sockets of this package: a deadline for each call, and one place that maps errors.

Rules:
  - The deadline holds for a whole call, not for each read.
  - A failure drops the connection, since a late answer could be taken for the next one. A message above a limit is the
    exception: it was read to its end and thrown away, so both ends are still in step.
"""

from __future__ import annotations

import socket
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from transports import tls
from transports.address import Address
from transports.base import Connection
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, MessageTooLarge, RemoteError, WireError
from transports.limits import Limits
from transports.sockets import Deadline, DeadlineSocket, Expired


def dial(address: Address, own: tls.Tls | None, deadline: Deadline) -> DeadlineSocket:
    """A socket connected to `address`; under TLS the handshake is still to come. Raises `ConnectError`."""
    try:
        return tls.dialled(socket.create_connection(address, deadline.left()), address.host, own)
    except (OSError, ValueError, OverflowError) as error:  # the last two: the host is no name, the port no port
        raise ConnectError(f"no connection to {address}: {error}") from None


class SocketConnection(Connection):
    """Takes over the connected `sock`. Raises `ConnectError` unless a server of splitbench is ready by `deadline`."""

    protocol: ClassVar[str]
    """The protocol's name in error texts."""

    def __init__(self, sock: DeadlineSocket, address: Address, options: Limits, deadline: Deadline) -> None:
        super().__init__(address, options)
        self.sock = sock
        try:
            with self._until(deadline):
                sock.greet()
                self._meet()
        except WireError as error:
            self.close()
            raise ConnectError(f"nobody serves splitbench over {self.protocol} there: {error}") from None
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _meet(self) -> None:
        """Check, on a new connection, that the peer serves splitbench. Raises the library's errors."""

    @abstractmethod
    def _violation(self, error: Exception) -> str | None:
        """How the peer broke the protocol, where `error` says that it did; else None."""

    @contextmanager
    def _until(self, deadline: Deadline) -> Iterator[None]:
        """Bound the socket's operations by `deadline`, and map the errors of the socket and the library."""
        self.sock.deadline = deadline.moment
        try:
            yield
        except MessageTooLarge:
            raise
        except (Expired, TimeoutError):
            text = f"{self.address} gave no answer within {deadline.given:.3g} s"
            raise self._dropped(DeadlineExceeded(text)) from None
        except (EOFError, OSError) as error:
            raise self._dropped(ConnectionLost(f"{self.address} went away: {error}")) from None
        except Exception as error:
            if (broken := self._violation(error)) is None:
                raise
            raise self._dropped(RemoteError(f"{self.address} broke the protocol: {broken}")) from None

    def _dropped(self, error: WireError) -> WireError:
        self.close()
        return error

    def stale(self) -> bool:
        return self.closed or self.sock.readable(0)

    def close(self) -> None:
        self.closed = True
        self.sock.close()
