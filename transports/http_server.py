"""A server of HTTP/1.1: uvicorn in a thread of its own, with limits on time and size that uvicorn lacks.

Rules:
  - uvicorn's event loop does all I/O, and a bounded pool of threads answers requests.
  - A connection may be idle for any time once its first request has been answered. The head of a request must be
    complete within `stall` seconds after its first byte, each piece of a body must come within `stall` seconds after
    the piece before it, and the peer must take each piece of an answer within `stall` seconds.
  - Before the server reads a body, the application tells its largest size. A larger body is discarded as it arrives and
    then refused, so that both ends stay in step and the connection remains usable.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import uvicorn
from uvicorn.server import ServerState

from transports import tls
from transports.address import Address
from transports.base import Server
from transports.errors import DeadlineExceeded, MessageTooLarge, WireError
from transports.http_protocol import GONE, LimitedProtocol
from transports.limits import GRACE
from transports.listener import bind_port
from transports.sockets import Deadline

PIECE = 2**18
"""Most bytes of an answer that are handed to uvicorn at a time."""
CLOSING = 1.0
"""Seconds within which a peer must confirm the end of a TLS connection."""


@dataclass(frozen=True)
class Head:
    """The head of a request, without the query part of its path. The names in `headers` are in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    gone: Callable[[], bool]
    """Whether the client has closed its end. HTTP allows a client to do so and still read the answer."""


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


class Application(Protocol):
    """Answers requests. All methods but `answer` run in the event loop, and must not block."""

    def admit(self, head: Head) -> int | Reply:
        """The largest body to accept, in bytes, or the answer if the body does not matter. Raises `WireError`."""

    def answer(self, head: Head, body: bytearray) -> Reply:
        """The answer to a complete request."""

    def refusal(self, error: WireError) -> Reply:
        """The answer to a request that was not admitted, is too large, or came too slowly."""


class HttpServer(Server):
    """Answers up to `threads` requests at a time. Raises `ConnectError` when the port cannot be bound.

    It starts and stops uvicorn's protocol itself, since `uvicorn.Server` checks only ten times a second whether to end,
    and has a fixed time limit for TLS handshakes.
    """

    def __init__(
        self, application: Application, address: Address, stall: float, threads: int, own: tls.Tls | None = None
    ) -> None:
        sock, self.address = bind_port(address)
        self._threads = ThreadPoolExecutor(threads, f"http-{self.address.port}")
        config = uvicorn.Config(
            _Asgi(application, self._threads, stall),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
        )
        config.load()
        self._state = ServerState()
        self._protocol = partial(LimitedProtocol, config=config, server_state=self._state, stall=stall)
        self._ending = asyncio.Event()
        self._grace: Deadline | None = None
        """Until when a closing server waits for handlers; None while it does not close."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._run, args=(sock, own, stall), name=f"http-loop-{self.address.port}", daemon=True
        )
        self._thread.start()

    def drain(self, seconds: float) -> None:
        with suppress(RuntimeError):  # raised if the loop has ended
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join(seconds)

    def close(self) -> None:
        """End the connections at once, and wait up to `GRACE` seconds for handlers that still run."""
        self._grace = Deadline.after(GRACE)
        self.drain(GRACE + 1)
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _run(self, sock: socket.socket, own: tls.Tls | None, stall: float) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(sock, own, stall))

    async def _serve(self, sock: socket.socket, own: tls.Tls | None, stall: float) -> None:
        """Accept connections until the server has to end, and then wait for the last answer, or until `_grace`."""
        server = await self._loop.create_server(
            self._protocol,
            sock=sock,
            ssl=own.server if own else None,
            ssl_handshake_timeout=stall if own else None,
            ssl_shutdown_timeout=CLOSING if own else None,
        )
        await self._ending.wait()
        server.close()
        while (self._state.connections or self._state.tasks) and (self._grace is None or self._grace.left()):
            for connection in list(self._state.connections):
                if self._grace:
                    connection.transport.abort()
                else:
                    connection.shutdown()
            await asyncio.sleep(0.01)


class _Asgi:
    """Serves an `Application` as ASGI."""

    def __init__(self, application: Application, threads: ThreadPoolExecutor, stall: float) -> None:
        self._application = application
        self._threads = threads
        self._stall = stall

    async def __call__(self, scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Any]) -> None:
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        head = Head(scope["method"], scope["raw_path"].decode("latin-1"), headers, scope["state"][GONE])
        try:
            reply = await self._reply(head, receive)
        except (EOFError, asyncio.CancelledError):  # the client has gone, or the server ends without waiting any longer
            return
        given = {"Content-Type": "application/json", "Content-Length": str(len(reply.body)), **reply.headers}
        lines = [(name.encode(), value.encode()) for name, value in given.items()]
        await send({"type": "http.response.start", "status": reply.status, "headers": lines})
        body = memoryview(reply.body)
        for place in range(0, len(body) or 1, PIECE):
            end = place + PIECE
            await send({"type": "http.response.body", "body": body[place:end], "more_body": end < len(body)})

    async def _reply(self, head: Head, receive: Callable[[], Awaitable[Any]]) -> Reply:
        """The answer to a request. Raises `EOFError` if the client leaves before its request is complete."""
        try:
            admitted = self._application.admit(head)
        except WireError as error:
            admitted = self._application.refusal(error)
        most = admitted if isinstance(admitted, int) else 0
        try:
            body, size = await self._read(head, receive, most)
        except TimeoutError:
            late = self._application.refusal(DeadlineExceeded(f"nothing came of the body for {self._stall:g} s"))
            return Reply(late.status, late.body, {**late.headers, "Connection": "close"})
        if isinstance(admitted, Reply):
            return admitted
        if size > most:
            text = f"a body of {size} bytes or more is above the limit of {most} bytes"
            return self._application.refusal(MessageTooLarge(text))
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, self._application.answer, head, body)

    async def _read(self, head: Head, receive: Callable[[], Awaitable[Any]], most: int) -> tuple[bytearray, int]:
        """The body and its size. If the size is above `most`, the body is discarded. Raises `TimeoutError`."""
        size, body, more = 0, bytearray(), True
        keep = int(head.headers.get("content-length", 0)) <= most
        while more:
            async with asyncio.timeout(self._stall):
                event = await receive()
            if event["type"] != "http.request":
                raise EOFError
            size += len(event["body"])
            more = event["more_body"]
            if keep and size <= most:
                body += event["body"]
        return body, size
