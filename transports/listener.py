"""A bound port with a thread for each connection, all of which end when it closes.

A thread, and no event loop: what a handler does is work for a thread anyway, and one thread that reads a request,
answers it and writes the answer hands nothing over.

Rules:
  - A peer has `stall` seconds to shake hands, as many again to say its first word, and as many for every read or write
    that follows. How long it may be idle between requests is for the conversation to say.
  - Whatever a peer does ends no more than its own connection. One for which there is no room is closed at once.
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
"""Serves one connection until it ends, which it may say by raising `EOFError`; the socket is closed for it."""


def bind_port(address: Address) -> tuple[socket.socket, Address]:
    """A socket that listens at `address`, and where it does. Raises `ConnectError`."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        sock = socket.create_server(address, family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise ConnectError(f"cannot bind {address}: {error}") from None
    return sock, Address(address.host, sock.getsockname()[1])


class Listener(Server):
    """Serves every peer that dials `address` with `converse`, under TLS where `own` is given.

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
        """A handler that still runs is waited for, for a few seconds; its caller is told at once."""
        self._end(GRACE, socket.SHUT_RDWR)

    def _end(self, seconds: float, how: int) -> None:
        """Take nobody any more, shut every connection down, and wait up to `seconds` until all have ended.

        A conversation that can read no more ends by itself, once it has said what it was about to say.
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
        """Take connections until the port closes. One that cannot be taken, for want of a descriptor, ends none."""
        while self._open:
            try:
                self._take(self._socket.accept()[0])
            except (OSError, RuntimeError) as error:
                if self._open:
                    log.warning("could not take a connection to port %s: %s", self.address.port, error)
                    self._pause.wait(0.05)

    def _take(self, sock: socket.socket) -> None:
        """Begin a conversation. Raises `OSError`, and `RuntimeError` where there is no thread for it."""
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
        """Wait for the peer's first word. Raises `Expired`, `OSError`."""
        keep_alive(sock)
        sock.patience = self.stall
        sock.greet()
        if not sock.readable(self.stall):
            raise Expired(f"nothing was said for {self.stall:g} s")


def _shut_down(sock: socket.socket, how: int) -> None:
    """Wake whoever waits on `sock`, and let it find nothing. Below TLS, which is not to be touched by two threads."""
    with suppress(OSError):
        socket.socket.shutdown(sock, how)
