"""The echo of uvicorn and urllib3 alone: an ASGI application, and a pool of connections. See `bare`."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any


async def _echo(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    body, more = bytearray(), True
    while more:
        event = await receive()
        body += event["body"]
        more = event["more_body"]
    length = str(len(body)).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", length)]})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def serve(host: str) -> Iterator[int]:
    """Serve in a thread, and yield the port."""
    import uvicorn

    server = uvicorn.Server(uvicorn.Config(_echo, lifespan="off", log_config=None, access_log=False))
    # asyncio sets TCP_NODELAY only where the protocol is given, as it is where uvicorn binds the port.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((host, 0))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        server.should_exit = True
        thread.join()


@contextlib.contextmanager
def connect(host: str, port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Connect to `port`, and yield a function that returns the bytes of the answer."""
    import urllib3

    with urllib3.HTTPConnectionPool(host, port, retries=False) as pool:
        yield lambda data: pool.request("POST", "/", body=data).data
