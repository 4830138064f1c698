"""`splitbench trace FOLDER --otlp URL`, with a real server that takes OTLP over HTTP."""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from experiments.store.trace_file import Writer
from experiments.trace import otlp
from experiments.trace.__main__ import main

TRACE, ROOT, CALL, SERVE = "ab" * 16, "01" * 8, "02" * 8, "03" * 8
EPOCH = 1_700_000_000.25


def event(
    name: str, cat: str, own: str, parent: str, pid: int, ts: float, dur: float, **more: object
) -> dict[str, Any]:
    args = {"trace": TRACE, "span": own, "parent": parent, "server": pid - 2, **more}
    return {"name": name, "cat": cat, "ph": "X", "ts": ts, "dur": dur, "pid": pid, "tid": 1, "args": args}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with Writer(tmp_path) as writer:
        writer.append(
            [
                {"name": "splitbench", "ph": "M", "pid": 1, "args": {"requests": 10, "epoch": EPOCH}},
                {"name": "process_name", "ph": "M", "pid": 1, "args": {"name": "client"}},
                {"name": "process_name", "ph": "M", "pid": 2, "args": {"name": "node-0"}},
                event("request", "request", ROOT, "", 1, 10.5, 100.0, cell="one", run=3),
                event("call infer", "call", CALL, ROOT, 1, 20.0, 80.125),
                event("serve infer", "serve", SERVE, CALL, 2, 30.0, 60.0),
            ]
        )
    return tmp_path


class Collector(ThreadingHTTPServer):
    """Answers every request with `status`, and keeps the paths and bodies that it received."""

    def __init__(self, status: int) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.status = status
        self.taken: list[tuple[str, ExportTraceServiceRequest]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        body = gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body
        self.server.taken.append((self.path, ExportTraceServiceRequest.FromString(body)))
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *words: object) -> None:
        """Print nothing on standard error."""


@contextlib.contextmanager
def collecting(status: int = 200) -> Iterator[Collector]:
    with Collector(status) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(("given", "path"), [("", "/v1/traces"), ("/", "/v1/traces"), ("/own/way", "/own/way")])
def test_spans_arrive_with_their_ids_and_times(
    given: str, path: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with collecting() as collector:
        assert main([str(folder), "--otlp", collector.url + given]) == 0
    assert capsys.readouterr().out == f"sent 3 spans to {collector.url}{given}\n"
    ((found, request),) = collector.taken
    assert found == path
    spans = {}
    for home in request.resource_spans:
        names = {pair.key: pair.value.string_value for pair in home.resource.attributes}
        assert names["service.namespace"] == "splitbench"
        spans |= {
            span.span_id.hex(): (names["service.name"], span) for scope in home.scope_spans for span in scope.spans
        }
    assert {own: (home, span.name, span.parent_span_id.hex()) for own, (home, span) in spans.items()} == {
        ROOT: ("client", "request", ""),
        CALL: ("client", "call infer", ROOT),
        SERVE: ("node-0", "serve infer", CALL),
    }
    assert {span.trace_id.hex() for _, span in spans.values()} == {TRACE}
    call = spans[CALL][1]
    assert call.start_time_unix_nano == round(EPOCH * 1e9) + 20_000
    assert call.end_time_unix_nano - call.start_time_unix_nano == 80_125
    assert [spans[own][1].kind for own in (ROOT, CALL, SERVE)] == [1, 3, 2]  # internal, client, server
    about = {pair.key: pair.value for pair in spans[ROOT][1].attributes}
    assert about["splitbench.cell"].string_value == "one"
    assert about["splitbench.run"].int_value == 3


def failed(folder: Path, url: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of the command, which fails."""
    assert main([str(folder), "--otlp", url]) == 1
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


def test_a_collector_that_refuses_is_named_with_the_reason(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with collecting(status=400) as collector:
        err = failed(folder, collector.url, capsys)
    assert err.startswith(f"error: {collector.url}/v1/traces took no spans: ")
    assert "400" in err


def test_a_collector_that_is_not_there(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "TIMEOUT", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert (
        failed(folder, url, capsys)
        == f"error: {url}/v1/traces took no spans: Connection refused; start a collector there\n"
    )


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://localhost", "http://", "collector"])
def test_no_address_of_a_collector_is_refused(url: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "--otlp", url]) == 2
    assert "valid: http://HOST:PORT" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main([str(folder), "--otlp", "http://127.0.0.1:4318"]) == 2
    assert "pip install 'splitbench[tracing]'" in capsys.readouterr().err
