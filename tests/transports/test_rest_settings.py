"""How a REST server treats clients that are not ours, and the socket options of both ends."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress

import numpy as np
import psutil
import pytest

from tests.transports.conftest import HOST, Case, assert_hung_up, peers_that_say
from transports import Address, Message, Server, json_codec
from transports.base import raise_error
from transports.errors import ConnectError, ConnectionLost, MessageTooLarge, RemoteError, WireError
from transports.http_protocol import HEAD
from transports.rest_server import IS_READY, PATHS, READY, STATUS

HELLO = b'{"method":"hello","fields":[],"tensors":[]}'
REQUEST = b"POST /v1/json HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n" % len(HELLO)


def echo(message: Message) -> Message:
    return message


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case("rest", "json-b64")
    with made.stack:
        yield made


@pytest.fixture
def server(case: Case) -> Server:
    return case.serve(echo, limit=10**6)


@pytest.fixture
def stranger(case: Case, server: Server) -> http.client.HTTPConnection:
    """Python's own client, for requests that ours does not make."""
    made = http.client.HTTPConnection(*server.address, timeout=5)
    case.stack.callback(made.close)
    return made


def asked(
    client: http.client.HTTPConnection, method: str, path: str, body: object = None, **headers: str
) -> tuple[int, bytes]:
    given = {key.replace("_", "-"): value for key, value in headers.items()}
    client.request(method, path, body, given, encode_chunked="Transfer-Encoding" in given)  # type: ignore[arg-type]
    answer = client.getresponse()
    return answer.status, answer.read()


def said(server: Server, data: bytes) -> bytes:
    """All that the server answers to `data`, until it hangs up."""
    with socket.create_connection(server.address, 5) as peer:
        peer.sendall(data)
        answer = b""
        while answer.count(b'"tensors":[]}') < max(1, data.count(b"POST")):
            if not (piece := peer.recv(10_000)):
                return answer
            answer += piece
        peer.shutdown(socket.SHUT_WR)  # no earlier: a peer that hangs up gets no answer
        return answer + b"".join(iter(lambda: peer.recv(10_000), b""))


def test_a_message_may_be_written_by_hand(stranger: http.client.HTTPConnection) -> None:
    tensor = {"name": "x", "dtype": "float32", "shape": [2, 2], "data": [1, 2.5, -0.0, 4]}
    body = json.dumps({"method": "echo", "fields": [["n", 1]], "tensors": [tensor]})
    status, answer = asked(stranger, "POST", PATHS["json"], body)
    assert (status, json.loads(answer)) == (200, json.loads(body))
    assert str(json.loads(answer)["tensors"][0]["data"][2]) == "-0.0"


def test_a_ready_server_names_its_codecs(stranger: http.client.HTTPConnection) -> None:
    status, answer = asked(stranger, "GET", READY)
    assert (status, json.loads(answer)) == (200, {"codecs": ["json", "json-b64"]})


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/", None),
        ("GET", PATHS["json"], None),
        ("POST", READY, b""),
        ("PUT", "/v1/jso", None),
        ("POST", "/v1/jso", HELLO),
    ],
)
def test_what_is_not_there_is_answered_with_what_is(
    stranger: http.client.HTTPConnection, method: str, path: str, body: bytes | None
) -> None:
    for _ in range(2):  # the connection stays usable
        status, answer = asked(stranger, method, path, body)
        assert status == 404
        assert f"no {method} {path} (valid: GET {READY}, POST /v1/json, POST /v1/json-b64)" in answer.decode()
    assert asked(stranger, "HEAD", "/") == (404, b"")
    assert asked(stranger, "POST", PATHS["json"], HELLO) == (200, HELLO)


@pytest.mark.parametrize("kind", sorted(WireError.kinds))
def test_an_error_has_a_status_of_its_own(case: Case, kind: str) -> None:
    def fail(message: Message) -> Message:
        raise WireError.kinds[kind]("why")

    client = http.client.HTTPConnection(*case.serve(fail).address, timeout=5)
    case.stack.callback(client.close)
    status, answer = asked(client, "POST", PATHS["json"], HELLO)
    assert status == STATUS.get(kind, 500)
    with pytest.raises(WireError.kinds[kind], match="why"):
        raise_error(json_codec.read(answer))


def test_every_kind_of_error_has_a_status() -> None:
    own = {kind for kind, error in WireError.kinds.items() if error.__module__ == WireError.__module__}
    assert set(STATUS) == own


@pytest.mark.parametrize(
    "data",
    [
        REQUEST + b"Expect: 100-continue\r\n\r\n" + HELLO,
        REQUEST + b"\r\n" + HELLO + REQUEST + b"\r\n" + HELLO,
        b"POST /v1/json HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"".join(b"1\r\n%c\r\n" % byte for byte in HELLO)
        + b"0\r\n\r\n",
        b"POST /v1/json HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(HELLO) + HELLO,
    ],
    ids=["expects to go on", "two at once", "in chunks", "HTTP/1.0"],
)
def test_what_http_allows_is_answered(server: Server, data: bytes) -> None:
    answer = said(server, data)
    assert answer.count(b"HTTP/1.1 200") == answer.count(HELLO) == data.count(b"POST")


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"hello\r\n\r\n", b"Invalid HTTP request"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"Invalid HTTP request"),
        (REQUEST + b"Content-Length: 2\r\n\r\n", b"Invalid HTTP request"),
        (REQUEST + b"Transfer-Encoding: chunked\r\n\r\n", b"Invalid HTTP request"),
        (b"GET /" + b"x" * (HEAD + 1), b"The head of the request is larger than 16384 bytes"),
    ],
)
def test_what_is_no_http_is_answered_with_400(server: Server, data: bytes, why: bytes) -> None:
    answer = said(server, data)
    assert answer.startswith(b"HTTP/1.1 400")
    assert why in answer


def test_a_body_above_its_limit_is_refused_and_the_connection_goes_on(stranger: http.client.HTTPConnection) -> None:
    swarm = b"[" * 20_000_000
    for headers in ({}, {"Transfer_Encoding": "chunked"}):
        body = iter([swarm]) if headers else swarm
        status, answer = asked(stranger, "POST", PATHS["json"], body, **headers)
        assert status == 413
        assert re.search(rb"a body of \d{8} bytes or more is above the limit of 15291456 bytes", answer)
        assert asked(stranger, "POST", PATHS["json"], HELLO) == (200, HELLO)


@pytest.mark.parametrize(("announced", "status"), [("1000001", 413), ("1000000", 200), ("-1", 400), ("x", 400)])
def test_an_announced_payload_is_believed_where_it_is_too_large(
    stranger: http.client.HTTPConnection, announced: str, status: int
) -> None:
    assert asked(stranger, "POST", PATHS["json"], HELLO, Splitbench_Payload=announced)[0] == status
    assert asked(stranger, "POST", PATHS["json"], HELLO) == (200, HELLO)


def test_a_payload_above_the_limit_that_was_not_announced_is_refused(stranger: http.client.HTTPConnection) -> None:
    body = json_codec.write(Message("x", {}, {"x": np.zeros(10**6 + 1, np.uint8)}), "json-b64")
    status, answer = asked(stranger, "POST", PATHS["json-b64"], body)
    assert status == 413
    with pytest.raises(MessageTooLarge, match="take 1000001 bytes, above the limit of 1000000 bytes"):
        raise_error(json_codec.read(answer))


@pytest.mark.parametrize("said", [REQUEST, REQUEST + b"\r\n" + HELLO[:7]], ids=["in the head", "in the body"])
def test_a_peer_that_stalls_inside_a_request_is_dropped(case: Case, ping: Message, said: bytes) -> None:
    patient, hasty = (case.serve(echo, workers=1, stall=seconds) for seconds in (60, 0.2))
    with ExitStack() as stack:
        peers_that_say(said, case.kind, patient, stack)
        assert case.connect(patient.address).call(ping, 5) == ping
        assert_hung_up(peers_that_say(said, case.kind, hasty, stack))


def test_a_peer_that_sends_its_head_byte_by_byte_is_dropped(case: Case) -> None:
    """Each byte comes in time, but the whole head does not."""
    server = case.serve(echo, stall=0.5)
    with socket.create_connection(server.address, 5) as peer, suppress(OSError):
        for byte in REQUEST:
            peer.sendall(bytes([byte]))
            threading.Event().wait(0.1)
        pytest.fail("a head was waited for as long as its bytes came")


def test_a_connection_may_be_idle_for_longer_than_a_stall(case: Case, ping: Message) -> None:
    server = case.serve(echo, stall=1.0)
    connection = case.connect(server.address)
    other = case.connect(server.address)
    assert connection.call(ping, 5) == ping
    threading.Event().wait(1.5)
    assert connection.call(ping, 5) == other.call(ping, 5) == ping


def test_an_announced_length_takes_no_memory_before_its_bytes_have_come(case: Case, ping: Message) -> None:
    server = case.serve(echo)
    before = psutil.Process().memory_info().rss
    with ExitStack() as stack:
        for _ in range(8):
            peer = stack.enter_context(socket.create_connection(server.address, 5))
            peer.sendall(b"POST /v1/json HTTP/1.1\r\nHost: x\r\nContent-Length: 200000000\r\n\r\n" + bytes(1000))
        assert case.connect(server.address).call(ping, 5) == ping
        assert psutil.Process().memory_info().rss - before < 200 * 2**20


def test_another_http_server_is_refused(case: Case) -> None:
    """The other server does not know the path, or does not speak HTTP."""
    for answer in (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", b"220 smtp ready\r\n", b""):
        with socket.create_server((HOST, 0)) as listener:
            address = listener.getsockname()
            thread = threading.Thread(target=_answer_one, args=(listener, answer))
            thread.start()
            with pytest.raises(ConnectError, match="nobody serves splitbench over REST there"):
                case.connect(Address(*address))
            thread.join(5)


def _answer_one(listener: socket.socket, answer: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        peer.recv(10_000)
        peer.sendall(answer)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", WireError),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 2\r\n\r\n[]", WireError),
        (b"HTTP/9.1 \r\n\r\n", RemoteError),
        (b"HTTP/1.1 200 OK\r\nContent-Le", ConnectionLost),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 20000000000\r\n\r\n", ConnectionLost),
        (
            b"HTTP/1.1 200 OK\r\nConnection: close\r\nSplitbench-Payload: %d\r\nContent-Length: 0\r\n\r\n" % 2**40,
            MessageTooLarge,
        ),
    ],
)
def test_an_unusable_answer_is_a_wire_error(case: Case, ping: Message, answer: bytes, error: type[WireError]) -> None:
    ready = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(IS_READY), IS_READY)
    with socket.create_server((HOST, 0)) as listener:

        def serve() -> None:
            peer, _ = listener.accept()
            with peer:
                for words in (ready, answer):
                    peer.recv(10_000)
                    peer.sendall(words)

        thread = threading.Thread(target=serve)
        thread.start()
        connection = case.connect(Address(*listener.getsockname()))
        with pytest.raises(error):
            connection.call(ping, 5)
        assert connection.closed == (error is not WireError)  # WireError: the body was whole, but no message
        thread.join(5)


def test_both_ends_send_at_once_and_notice_a_vanished_peer(case: Case, ping: Message) -> None:
    server = case.serve(echo)
    connection = case.connect(server.address)
    connection.call(ping, 5)
    peers = [peer.transport.get_extra_info("socket") for peer in server._state.connections]  # type: ignore[attr-defined]
    ends = [connection.sock, *peers]  # type: ignore[attr-defined]
    assert [end.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for end in ends] == [1, 1]
    assert ends[1].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1


def test_no_proxy_is_asked(case: Case, monkeypatch: pytest.MonkeyPatch, ping: Message) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://192.0.2.1:9")
    assert case.echo().call(ping, 5) == ping
