"""The echoes of uvicorn and urllib3 alone: an ASGI application, and a pool of connections. See `bare`.

A server reads and writes JSON in a thread, as web frameworks (FastAPI, Starlette) call functions that compute. It
returns raw bytes unchanged, from its event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Body:
    """A form of a tensor in the body of a request and of its answer."""

    media: str
    write: Callable[[Array], bytes]
    read: Callable[[bytes | bytearray], Array]
    """An array of the same elements, whatever its shape."""
    in_thread: bool = True
    """Whether the server makes the array, in a thread; else it returns the body."""


def _raw() -> Body:
    """The bytes alone."""

    def read(body: bytes | bytearray) -> Array:
        return np.frombuffer(body, np.uint8)

    return Body("application/octet-stream", lambda array: array.tobytes(), read, in_thread=False)


def _json() -> Body:
    """Nested lists of numbers, read as float32."""
    import orjson

    def write(array: Array) -> bytes:
        return orjson.dumps({"data": array}, option=orjson.OPT_SERIALIZE_NUMPY)

    return Body("application/json", write, lambda body: np.array(orjson.loads(body)["data"], np.float32))


def _base64() -> Body:
    """The shape, and the bytes in base64, read as float32."""
    import orjson
    import pybase64

    def write(array: Array) -> bytes:
        return orjson.dumps({"shape": array.shape, "b64": pybase64.b64encode_as_string(array.tobytes())})

    def read(body: bytes | bytearray) -> Array:
        came = orjson.loads(body)
        return np.frombuffer(pybase64.b64decode(came["b64"]), np.float32).reshape(came["shape"])

    return Body("application/json", write, read)


BODIES: Mapping[str, Callable[[], Body]] = {"raw": _raw, "json": _json, "json-b64": _base64}
"""Codec of `rest`, or `raw`, which is not one of them -> the body in that form."""

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


def _application(body: Body) -> Callable[[Any, Receive, Send], Awaitable[None]]:
    def echo(came: bytearray) -> bytes:
        return body.write(body.read(came))

    async def application(scope: Any, receive: Receive, send: Send) -> None:
        came, more = bytearray(), True
        while more:
            event = await receive()
            came += event["body"]
            more = event["more_body"]
        reply = await asyncio.to_thread(echo, came) if body.in_thread else came
        headers = [(b"content-type", body.media.encode()), (b"content-length", str(len(reply)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": reply})

    return application


@contextlib.contextmanager
def serve(host: str, form: str) -> Iterator[int]:
    """Serve in a thread, with bodies in a form of `BODIES`, and yield the port."""
    import uvicorn

    application = _application(BODIES[form]())
    server = uvicorn.Server(uvicorn.Config(application, lifespan="off", log_config=None, access_log=False))
    # asyncio sets TCP_NODELAY only on a socket that is created with an explicit protocol, as uvicorn does for a port.
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.bind((host, 0))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        try:
            yield int(listener.getsockname()[1])
        finally:
            server.should_exit = True
            thread.join()


@contextlib.contextmanager
def connect(host: str, form: str, port: int) -> Iterator[Callable[[Array], Array]]:
    """Connect to `port`, and yield a function that returns the array of the answer."""
    import urllib3

    body = BODIES[form]()
    headers = {"Content-Type": body.media}
    with urllib3.HTTPConnectionPool(host, port, retries=False) as pool:
        yield lambda array: body.read(pool.request("POST", "/", body=body.write(array), headers=headers).data)
