"""uvicorn's end of a connection, with limits that uvicorn lacks: on heads, on answers that the peer does not read, and
on the number of connections."""

from __future__ import annotations

import asyncio
import select

from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from transports.base import log
from transports.limits import CONNECTIONS, DAY
from transports.sockets import HANGUP, keep_alive, no_delay

HEAD = 2**14
"""Most bytes of a head that arrives in more than one read (of up to 256 KiB)."""
GONE = "splitbench.gone"
"""Key in the `state` of an ASGI scope. Its value is a function that tells whether the client has closed its end."""


class LimitedProtocol(HttpToolsProtocol):
    """Disconnects a peer that does not complete a head, or take a piece of an answer, within `stall` seconds."""

    def __init__(self, config: Config, server_state: ServerState, stall: float) -> None:
        super().__init__(config, server_state, {GONE: self._gone})
        self.timeout_keep_alive = 365 * DAY  # in effect no limit: a connection may be idle
        self._stall = stall
        self._head_watch: asyncio.TimerHandle | None = None
        self._answer_watch: asyncio.TimerHandle | None = None
        self._head_size = 0
        self._hang_up = select.poll()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > CONNECTIONS:
            log.warning("turned a connection to %s away: %s are open", self.server, CONNECTIONS)
            transport.abort()
            return
        sock = transport.get_extra_info("socket")
        no_delay(sock)
        keep_alive(sock)
        self._hang_up.register(sock, HANGUP)
        self._head_watch = self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for watch in filter(None, (self._head_watch, self._answer_watch)):
            watch.cancel()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_watch = self._head_watch or self._watch()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._head_watch and not self.transport.is_closing():
            self._head_size += len(data)
            if self._head_size > HEAD:
                self.send_400_response(f"The head of the request is larger than {HEAD} bytes.")

    def on_headers_complete(self) -> None:
        if self._head_watch:
            self._head_watch.cancel()
        self._head_watch, self._head_size = None, 0
        super().on_headers_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._answer_watch = self._watch()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._answer_watch:
            self._answer_watch.cancel()

    def _watch(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._stall, self._drop)

    def _drop(self) -> None:
        log.warning("dropped a connection to %s, which stalled for %g s", self.server, self._stall)
        self.transport.abort()

    def _gone(self) -> bool:
        return self.transport.is_closing() or bool(self._hang_up.poll(0))
