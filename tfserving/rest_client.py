"""A client of a model server over REST: column format, kept connections.

JSON has no types and no bytes, so an array becomes nested lists of decimals, each in its shortest form. orjson is as
fast with them as RapidJSON is in the real server; a slower library would dominate what is measured.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from http.client import HTTPException
from typing import Any, Self
from urllib.parse import quote

import numpy as np
from urllib3.exceptions import HTTPError

from tfserving import json_arrays
from tfserving.tensors import LIMIT
from transports.address import Address
from transports.base import DTYPES, Array
from transports.errors import (
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    RemoteError,
    ResourceExhausted,
    WireError,
)
from transports.http_client import HttpConnection, body_of
from transports.socket_connection import dial
from transports.sockets import Deadline, Expired

ERRORS: Mapping[int, type[WireError]] = {
    HTTPStatus.BAD_REQUEST: MalformedMessage,
    HTTPStatus.TOO_MANY_REQUESTS: ResourceExhausted,
    HTTPStatus.SERVICE_UNAVAILABLE: ConnectionLost,
    HTTPStatus.GATEWAY_TIMEOUT: DeadlineExceeded,
}
"""HTTP status of an answer -> the error to raise; for any other status: `RemoteError`."""


class RestClient:
    """Kept connections to a model server, one for each concurrent call. Thread-safe. A context manager."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[HttpConnection] = []
        self._lock = threading.Lock()
        self._closed = False

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Mapping[str, str], timeout: float = 30.0
    ) -> dict[str, Array]:
        """All `outputs` (key -> dtype) of the model's signature `serving_default`, as read-only arrays.

        The REST interface cannot select outputs. Raises a `WireError`.
        """
        deadline = Deadline.after(timeout)
        for name, array in inputs.items():
            if array.dtype.name not in json_arrays.LISTED:
                valid = ", ".join(json_arrays.LISTED)
                raise MalformedMessage(f"input {name!r}: REST carries no {array.dtype.name}; valid: {valid}")
        body = json_arrays.write({"inputs": inputs}, inputs.values())
        answer = self._content(*self._post(f"/v1/models/{quote(model)}:predict", body, deadline))
        if not isinstance(answer, dict) or "outputs" not in answer:
            raise MalformedMessage(f"{self.address}: the answer has no outputs")
        found = answer["outputs"]
        named = found if len(outputs) > 1 else dict.fromkeys(outputs, found)
        return {key: self._array(key, named, dtype) for key, dtype in outputs.items()}

    def close(self) -> None:
        """Close every connection. Idempotent."""
        with self._lock:
            self._closed = True
        self._forget_idle()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _post(self, path: str, body: bytes, deadline: Deadline) -> tuple[int, bytearray]:
        """Status and body of the answer. If the server has closed a kept connection, repeats the call on a new one."""
        with self._mapped():
            if kept := self._take():
                with contextlib.suppress(EOFError, OSError):
                    return self._exchange(kept, path, body, deadline)
                self._forget_idle()
            return self._exchange(self._dial(deadline), path, body, deadline)

    def _exchange(self, http: HttpConnection, path: str, body: bytes, deadline: Deadline) -> tuple[int, bytearray]:
        """Status and body of the answer. The connection is kept if both ends allow it."""
        keep = False
        try:
            http.sock.deadline = deadline.moment
            response = http.ask("POST", path, body, {"Content-Type": "application/json"})
            data = body_of(response, LIMIT)
            keep = not http.is_closed
            return response.status, data
        finally:
            self._give_back(http, keep)

    def _content(self, status: int, data: bytearray) -> Any:
        try:
            content = json_arrays.parse(data)
        except (ValueError, RecursionError):
            raise MalformedMessage(f"{self.address}: the answer is no JSON") from None
        if status != HTTPStatus.OK:
            text = content.get("error", content) if isinstance(content, dict) else content
            raise ERRORS.get(status, RemoteError)(f"{self.address}: HTTP {status}: {text}")
        return content

    def _array(self, key: str, named: Any, dtype: str) -> Array:
        try:
            array = np.array(named[key], DTYPES[dtype])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise MalformedMessage(f"{self.address}: output {key!r} is no {dtype}: {error}") from None
        array.flags.writeable = False
        return array

    @contextlib.contextmanager
    def _mapped(self) -> Iterator[None]:
        """Raise errors of sockets and of urllib3 as errors of `transports.errors`."""
        try:
            yield
        except Expired:
            raise DeadlineExceeded(f"{self.address}: no answer in time") from None
        except (EOFError, OSError) as error:
            raise ConnectionLost(f"{self.address} closed the connection: {error}") from None
        except (HTTPException, HTTPError) as error:
            raise RemoteError(f"{self.address}: the answer is no HTTP: {error}") from None

    def _dial(self, deadline: Deadline) -> HttpConnection:
        if not deadline.left():
            raise Expired
        return HttpConnection(dial(self.address, None, deadline), self.address)

    def _take(self) -> HttpConnection | None:
        with self._lock:
            if self._closed:
                raise ConnectionLost(f"{self.address}: the client is closed")
            return self._idle.pop() if self._idle else None

    def _give_back(self, http: HttpConnection, keep: bool) -> None:
        with self._lock:
            if keep and not self._closed:
                self._idle.append(http)
                return
        http.close()

    def _forget_idle(self) -> None:
        """Close the kept connections: the server has probably closed them, too."""
        with self._lock:
            idle, self._idle = self._idle, []
        for http in idle:
            http.close()
