"""The outputs and errors of the REST client, with the real server (`TFS_BINARY`) or with this project's."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from tests.lateness import in_time
from tests.tfserving.conftest import Server
from tfserving import json_arrays
from tfserving.rest_client import RestClient
from transports.address import Address
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, MalformedMessage, RemoteError, WireError

X = np.array([[1.0, 2.0], [3.0, 4.0]], "float32")
Y = {"y": "float32"}


@pytest.fixture(scope="module")
def rest_client(server: Server) -> Iterator[RestClient]:
    with RestClient(server.rest) as client:
        yield client


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-42, 3.4e38, -0.0, np.nan, np.inf, -np.inf])
def test_a_float_comes_back_unchanged(rest_client: RestClient, value: float) -> None:
    sent = np.full((2, 3), value, "float32")
    found = rest_client.predict("every", {"x": sent}, Y)["y"]
    assert found.tobytes() == sent.tobytes()
    assert not found.flags.writeable


def test_several_inputs_and_outputs_keep_their_types(rest_client: RestClient) -> None:
    inputs = {"a": X[:, ::-1], "b": np.array([1, 2], "int32")}  # an array that is not contiguous
    found = rest_client.predict("mixed", inputs, {"square": "int64", "odd": "bool", "sum": "float32"})
    np.testing.assert_array_equal(found["sum"], inputs["a"] + inputs["b"][:, None])
    np.testing.assert_array_equal(found["square"], [1, 4])
    np.testing.assert_array_equal(found["odd"], [True, False])
    assert {name: array.dtype.name for name, array in found.items()} == {
        "square": "int64",
        "odd": "bool",
        "sum": "float32",
    }


def test_threads_share_a_client(rest_client: RestClient) -> None:
    def predict(number: int) -> None:
        for _ in range(20):
            np.testing.assert_array_equal(rest_client.predict("scale", {"x": X + number}, Y)["y"], (X + number) * 10)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(predict, range(8)))


ERRORS: dict[str, tuple[dict[str, Any], type[WireError], str]] = {
    "other model": ({"model": "other", "inputs": {"x": X}}, RemoteError, "HTTP 404: Servable not found"),
    "other input": ({"model": "scale", "inputs": {"z": X}}, MalformedMessage, "HTTP 400: Missing named input: x"),
    "other output": ({"model": "mixed", "inputs": {}}, MalformedMessage, "HTTP 400"),
    "no time": ({"model": "scale", "inputs": {"x": X}, "timeout": -1.0}, DeadlineExceeded, "no answer in time"),
    "no number": (
        {"model": "scale", "inputs": {"x": X.astype("complex64")}},
        MalformedMessage,
        "REST carries no complex64",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_mapped(rest_client: RestClient, case: str) -> None:
    arguments, kind, words = ERRORS[case]
    with pytest.raises(kind, match=words) as caught:
        rest_client.predict(**arguments, outputs=Y)
    assert type(caught.value) is kind


def test_a_missing_output_is_malformed(rest_client: RestClient) -> None:
    inputs = {"a": X, "b": np.array([1, 2], "int32")}
    with pytest.raises(MalformedMessage, match="output 'z' is no float32"):
        rest_client.predict("mixed", inputs, {"z": "float32", "sum": "float32"})


def test_an_address_without_a_server() -> None:
    with RestClient(Address("127.0.0.1", 1)) as client, pytest.raises(ConnectError, match=r"127\.0\.0\.1:1"):
        client.predict("scale", {"x": X}, Y)
    with pytest.raises(ConnectionLost, match="closed"):
        client.predict("scale", {"x": X}, Y)


class Forgetful(BaseHTTPRequestHandler):
    """Announces that it keeps connections, but closes them after each answer."""

    protocol_version = "HTTP/1.1"
    answers = (b'{"outputs": [1.5]}', b"no JSON", b'{"outputs": ["a"]}', b"[]")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        body = self.answers[min(self.server.asked, 3) if self.path.endswith("odd:predict") else 0]  # type: ignore[attr-defined]
        self.server.asked += 1  # type: ignore[attr-defined]
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


@contextlib.contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[Address]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.asked = 0  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Address("127.0.0.1", server.server_address[1])
        server.shutdown()
        thread.join()


@pytest.fixture
def forgetful() -> Iterator[Address]:
    with serving(Forgetful) as address:
        yield address


class Dripping(BaseHTTPRequestHandler):
    """Answers byte by byte, so that no single read of a socket takes long."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "100")
        self.end_headers()
        with contextlib.suppress(ConnectionError):
            while not threading.Event().wait(0.1):
                self.wfile.write(b" ")

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def test_a_slow_answer_ends_at_the_deadline() -> None:
    late = pytest.raises(DeadlineExceeded, match="no answer in time")
    with serving(Dripping) as address, RestClient(address) as client, in_time(3), late:
        client.predict("scale", {"x": X}, Y, timeout=1.0)


def test_a_connection_that_the_server_closed_is_made_again(forgetful: Address) -> None:
    with RestClient(forgetful) as client:
        for _ in range(3):
            assert client.predict("scale", {"x": X}, Y)["y"].tolist() == [1.5]


def test_an_unusable_answer_is_malformed(forgetful: Address) -> None:
    with RestClient(forgetful) as client:
        assert client.predict("odd", {"x": X}, Y)["y"].tolist() == [1.5]
        for words in ("no JSON", "output 'y' is no float32", "no outputs"):
            with pytest.raises(MalformedMessage, match=words):
                client.predict("odd", {"x": X}, Y)


@pytest.mark.parametrize("value", [1.5, np.nan])
@pytest.mark.parametrize("dtype", json_arrays.LISTED)
def test_every_listed_dtype_is_written_and_read(dtype: str, value: float) -> None:
    arrays = [np.full((2, 2), 1).astype(dtype), np.array(3).astype(dtype), np.array([value], "float32")]
    found = json_arrays.parse(json_arrays.write({"arrays": arrays}, arrays))["arrays"]
    for array, listed in zip(arrays, found, strict=True):
        np.testing.assert_array_equal(np.array(listed, array.dtype), array)
