"""The client's side of a model server's REST interface, the real one's or ours: column format, kept connections.

JSON has no types and no bytes: an array becomes nested lists of decimals, each as short as means its number. That is
written and read by orjson, which is to Python what RapidJSON is to the real server; without it, the lists and not the
interface would be measured. What JSON has no word for (NaN, the infinities) takes the way through `json`.
"""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import quote

import numpy as np

from cluster.serving import json_arrays
from transports.base import DTYPES, Address, Array
from transports.errors import (
    ConnectError,
    ConnectionLost,
    DeadlineExceeded,
    MalformedMessage,
    RemoteError,
    ResourceExhausted,
    WireError,
)

__all__ = ["RestClient"]

ERRORS: Mapping[int, type[WireError]] = {
    HTTPStatus.BAD_REQUEST: MalformedMessage,
    HTTPStatus.TOO_MANY_REQUESTS: ResourceExhausted,
    HTTPStatus.SERVICE_UNAVAILABLE: ConnectionLost,
    HTTPStatus.GATEWAY_TIMEOUT: DeadlineExceeded,
}
"""Status of an answer -> the error that it is here; any other is a `RemoteError`."""
LEAST = 1e-3
"""Seconds for which a socket waits at least: 0 would mean not at all."""


class RestClient:
    """Kept connections to a model server, as many as threads use it at a time. A context manager."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self._idle: list[http.client.HTTPConnection] = []
        self._lock = threading.Lock()
        self._closed = False

    def predict(
        self, model: str, inputs: Mapping[str, Array], outputs: Mapping[str, str], timeout: float = 30.0
    ) -> dict[str, Array]:
        """`outputs` (key -> dtype) of the model's signature `serving_default`, which must be all that it has.

        Arrays that come back are read-only. Raises a `WireError`.
        """
        for name, array in inputs.items():
            if array.dtype.name not in json_arrays.LISTED:
                valid = ", ".join(json_arrays.LISTED)
                raise MalformedMessage(f"input {name!r}: no {array.dtype.name} goes over REST; valid: {valid}")
        body = json_arrays.write({"inputs": inputs}, inputs.values())
        answer = self._post(f"/v1/models/{quote(model)}:predict", body, time.monotonic() + timeout)
        if not isinstance(answer, dict) or "outputs" not in answer:
            raise MalformedMessage(f"{self.address}: the answer has no outputs")
        found = answer["outputs"]
        named = found if len(outputs) > 1 else dict.fromkeys(outputs, found)
        return {key: self._array(key, named, dtype) for key, dtype in outputs.items()}

    def close(self) -> None:
        """Let go of every connection. Idempotent."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _post(self, path: str, body: bytes, deadline: float) -> Any:
        """The JSON of the answer. A kept connection that the server has let go of meanwhile is made anew, once."""
        connection = self._take()
        kept = connection.sock is not None
        try:
            status, data = self._exchange(connection, path, body, deadline)
        except (http.client.HTTPException, OSError) as error:
            connection.close()
            if kept and isinstance(error, http.client.RemoteDisconnected | BrokenPipeError | ConnectionResetError):
                self._forget_idle()
                return self._post(path, body, deadline)
            raise self._error(error, connected=kept) from error
        self._give_back(connection)
        return self._content(status, data)

    def _exchange(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, deadline: float
    ) -> tuple[int, bytes]:
        if (remaining := deadline - time.monotonic()) <= 0:
            raise TimeoutError
        connection.timeout = max(LEAST, remaining)
        if connection.sock is not None:
            connection.sock.settimeout(connection.timeout)
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, answer.read()

    def _content(self, status: int, data: bytes) -> Any:
        try:
            content = json_arrays.parse(data)
        except (ValueError, RecursionError):
            raise MalformedMessage(f"{self.address}: the answer is no JSON") from None
        if status != HTTPStatus.OK:
            words = content.get("error", content) if isinstance(content, dict) else content
            raise ERRORS.get(status, RemoteError)(f"{self.address}: HTTP {status}: {words}")
        return content

    def _array(self, key: str, named: Any, dtype: str) -> Array:
        try:
            array = np.array(named[key], DTYPES[dtype])
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise MalformedMessage(f"{self.address}: output {key!r} is no {dtype}: {error}") from None
        array.flags.writeable = False
        return array

    def _error(self, error: Exception, *, connected: bool) -> WireError:
        """The one place where what `http.client` raises becomes an error of ours."""
        if isinstance(error, TimeoutError):
            return DeadlineExceeded(f"{self.address}: no answer in time")
        kind = ConnectionLost if connected or not isinstance(error, ConnectionRefusedError) else ConnectError
        return kind(f"{self.address}: {type(error).__name__}: {error}")

    def _take(self) -> http.client.HTTPConnection:
        with self._lock:
            if self._closed:
                raise ConnectionLost(f"{self.address}: the client is closed")
            return self._idle.pop() if self._idle else http.client.HTTPConnection(*self.address)

    def _give_back(self, connection: http.client.HTTPConnection) -> None:
        with self._lock:
            if connection.sock is not None and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _forget_idle(self) -> None:
        """What else was kept is as old."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()
