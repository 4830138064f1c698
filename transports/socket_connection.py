"""What the connections over our own sockets share: a deadline for each call, and one place where errors become ours.

Rules:
  - The deadline holds for a whole call, and not for each read of it.
  - Whatever goes wrong drops the connection, since a late answer could not be told from the next one. The exception is
    a message too large: it was thrown away whole, and both ends are still in step.
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
    """A socket that is connected to `address`, with its handshake still to come under TLS. Raises `ConnectError`."""
    try:
        return tls.dialled(socket.create_connection(address, deadline.left()), address.host, own)
    except (OSError, ValueError, OverflowError) as error:  # the last two: the host is no name, the port no port
        raise ConnectError(f"no connection to {address}: {error}") from None


class SocketConnection(Connection):
    """Takes the connected `sock` over. Raises `ConnectError` when no server of ours is ready there by `deadline`."""

    protocol: ClassVar[str]
    """What both ends speak, for a person."""

    def __init__(self, sock: DeadlineSocket, address: Address, options: Limits, deadline: Deadline) -> None:
        self.sock = sock
        self._address = address
        self._options = options
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
        """Find out, on a connection just made, whether the peer serves our one method. Raises what the library does."""

    @abstractmethod
    def _violation(self, error: Exception) -> str | None:
        """How `error` of the library, or of ours, says that the peer broke the protocol; None where it does not."""

    @contextmanager
    def _until(self, deadline: Deadline) -> Iterator[None]:
        """Let the socket raise from `deadline` on, and map what it and the library raise to an error of ours."""
        if self.closed:
            raise ConnectionLost(f"the connection to {self._address} is closed")
        self.sock.deadline = deadline.moment
        try:
            yield
        except MessageTooLarge:
            raise
        except (Expired, TimeoutError):
            text = f"{self._address} gave no answer within {deadline.given:.3g} s"
            raise self._dropped(DeadlineExceeded(text)) from None
        except (EOFError, OSError) as error:
            raise self._dropped(ConnectionLost(f"{self._address} went away: {error}")) from None
        except Exception as error:
            if (broken := self._violation(error)) is None:
                raise
            raise self._dropped(RemoteError(f"{self._address} broke the protocol: {broken}")) from None

    def _dropped(self, error: WireError) -> WireError:
        self.close()
        return error

    def stale(self) -> bool:
        return self.closed or self.sock.readable(0)

    def close(self) -> None:
        self.closed = True
        self.sock.close()
