"""A bound port with a thread for each connection. All threads end when the listener closes.

It uses threads instead of an event loop: a handler blocks a thread anyway, and no work changes threads if one thread
reads a request, answers it and writes the answer.

Rules:
  - A peer has `stall` seconds for the TLS handshake, `stall` seconds for its first byte, and `stall` seconds for each
    later read or write. The conversation decides how long a peer may be idle between requests.
  - A failure ends one connection only. Connections above the limit are closed at once.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from transports import tls
from transports.address import Address
from transports.base import Server, log
from transports.errors import ConnectError
from transports.limits import CONNECTIONS, GRACE
from transports.sockets import Deadline, DeadlineSocket, Expired, keep_alive

Conversation = Callable[[DeadlineSocket], None]
"""A function that serves one connection until it ends; it may then raise `EOFError`. The listener closes the socket."""


def bind_port(address: Address) -> tuple[socket.socket, Address]:
    """A socket that listens at `address`, and its actual address. Raises `ConnectError`."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        sock = socket.create_server(address, family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ConnectError(f"cannot bind {address}: {error}") from None
    return sock, Address(address.host, sock.getsockname()[1])


class Listener(Server):
    """Serves every peer that connects to `address` with `converse`, over TLS if `own` is given.

    Raises `ConnectError` when the port cannot be bound.
    """

    def __init__(
        self,
        converse: Conversation,
        address: Address,
        stall: float,
        own: tls.Tls | None = None,
        bind: Callable[[Address], tuple[socket.socket, Address]] = bind_port,
    ) -> None:
        self._converse = converse
        self.stall = stall
        self._tls = own
        self._open = True
        self._pause = threading.Event()
        self._peers: dict[threading.Thread, DeadlineSocket] = {}
        self._socket, self.address = bind(address)
        self._accepting = threading.Thread(target=self._accept, name=f"accept-{self.address.port}", daemon=True)
        self._accepting.start()

    def drain(self, seconds: float) -> None:
        self._end(seconds, socket.SHUT_RD)

    def close(self) -> None:
        """Shut all connections down at once, and wait up to `GRACE` seconds for handlers that still run."""
        self._end(GRACE, socket.SHUT_RDWR)

    def _end(self, seconds: float, how: int) -> None:
        """Accept no more connections, shut every connection down, and wait up to `seconds` until all have ended.

        A conversation whose socket is shut for reading still sends its pending answer, and then ends.
        """
        self._open = False
        self._pause.set()
        _shut_down(self._socket, socket.SHUT_RDWR)
        self._socket.close()
        deadline = Deadline.after(seconds)
        own = {threading.current_thread()}
        for thread in {self._accepting} - own:
            thread.join(deadline.left())
        peers = dict(self._peers)
        for sock in peers.values():
            sock.deaf = how == socket.SHUT_RD
            _shut_down(sock, how)
        for thread in peers.keys() - own:
            thread.join(deadline.left())

    def _accept(self) -> None:
        """Accept connections until the port closes. If descriptors run out, existing connections go on."""
        while self._open:
            try:
                self._take(self._socket.accept()[0])
            except (OSError, RuntimeError) as error:
                if self._open:
                    log.warning("could not take a connection to port %s: %s", self.address.port, error)
                    self._pause.wait(0.05)

    def _take(self, sock: socket.socket) -> None:
        """Start a thread for a new connection. Raises `OSError`, and `RuntimeError` if no thread can be started."""
        with ExitStack() as undo:
            undo.enter_context(sock)
            if len(self._peers) >= CONNECTIONS:
                log.warning("turned a connection to port %s away: %s are open", self.address.port, CONNECTIONS)
                return
            peer = undo.enter_context(tls.accepted(sock, self._tls))
            name = f"peer-{self.address.port}"
            thread = threading.Thread(target=self._serve, args=(peer,), name=name, daemon=True)
            self._peers[thread] = peer
            undo.callback(self._peers.pop, thread)
            thread.start()
            undo.pop_all()

    def _serve(self, sock: DeadlineSocket) -> None:
        try:
            self._admit(sock)
            self._converse(sock)
        except EOFError:
            pass
        except Exception as error:
            level = logging.WARNING if self._open else logging.DEBUG
            log.log(level, "dropped a connection to port %s: %s: %s", self.address.port, type(error).__name__, error)
        finally:
            sock.close()
            del self._peers[threading.current_thread()]

    def _admit(self, sock: DeadlineSocket) -> None:
        """Do the handshake and wait for the peer's first byte. Raises `Expired`, `OSError`."""
        keep_alive(sock)
        sock.patience = self.stall
        sock.greet()
        if not sock.readable(self.stall):
            raise Expired(f"the peer sent nothing for {self.stall:g} s")


def _shut_down(sock: socket.socket, how: int) -> None:
    """Shut `sock` down, which wakes the thread that waits on it. Bypasses TLS, whose state only one thread may use."""
    with suppress(OSError):
        socket.socket.shutdown(sock, how)
