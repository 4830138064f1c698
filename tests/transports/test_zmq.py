"""ZeroMQ: CURVE, its limits, its threads, and requests that no client awaits."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import psutil
import pytest
import zmq
from zmq.auth import create_certificates

import transports
from tests.lateness import in_time
from tests.transports.conftest import HOST, Case
from transports import Limits, Message, check_host, zmq_frames
from transports.errors import ConnectError, MalformedMessage, UsageError
from transports.frame_codec import describe
from transports.zmq_options import CURVE, ZmqOptions
from transports.zmq_transport import Zmq


def echo(message: Message) -> Message:
    return message


@pytest.fixture
def case() -> Iterator[Case]:
    made = Case("zmq")
    with made.stack:
        yield made


def keys(folder: Path, name: str) -> dict[str, str]:
    """CURVE options with one key pair for all ends."""
    folder.mkdir()
    public, secret = create_certificates(folder, name)
    return {"curve_secret": secret, "curve_server": public, "curve_clients": str(folder)}


@pytest.fixture
def curve(tmp_path: Path) -> dict[str, str]:
    return keys(tmp_path / "own", "own")


@pytest.fixture
def other(tmp_path: Path) -> dict[str, str]:
    return keys(tmp_path / "other", "other")


def test_both_ends_with_keys_talk(case: Case, curve: dict[str, str]) -> None:
    connection = case.connect(case.serve(echo, **curve).address, **curve)
    x = np.random.default_rng(0).integers(0, 256, 2**20, np.uint8)
    for _ in range(3):
        assert np.array_equal(connection.call(Message("echo", {}, {"x": x}), 5).tensors["x"], x)


@pytest.mark.parametrize("who", ["another client", "a client without keys", "another server", "a server without keys"])
def test_an_end_without_the_right_keys_is_refused(
    case: Case, ping: Message, curve: dict[str, str], other: dict[str, str], who: str
) -> None:
    stranger = other | {"curve_server": curve["curve_server"]} if who == "another client" else other
    wrong = {} if "without" in who else stranger
    server = case.serve(echo, **(wrong if "server" in who else curve))
    with in_time(3), pytest.raises(ConnectError, match=str(server.address.port)):
        case.connect(server.address, timeout=1, **(curve if "server" in who else wrong))
    if "client" in who:
        assert case.connect(server.address, **curve).call(ping, 5) == ping


def test_with_keys_a_server_may_listen_to_other_machines(curve: dict[str, str]) -> None:
    assert check_host("0.0.0.0", ZmqOptions(**curve)) == ""  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="can be reached from other machines"):
        check_host("0.0.0.0", ZmqOptions())


def test_tls_files_are_refused_with_the_protection_that_there_is() -> None:
    files = {f"zmq.{name}": "file.pem" for name in ("tls_cert", "tls_key", "tls_ca")}
    with pytest.raises(UsageError, match=r"no TLS; its own protection is CURVE: .*zmq\.curve_secret"):
        transports.make("zmq", files)


@pytest.mark.parametrize("name", CURVE)
def test_keys_that_cannot_be_used_are_refused(curve: dict[str, str], tmp_path: Path, name: str) -> None:
    (odd := tmp_path / "odd.key").write_text("no key\n")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "absent", odd, tmp_path / "empty"):
        with pytest.raises(UsageError, match=f"--option zmq.{name}: .*{path.name}"):
            transports.make("zmq", {f"zmq.{key}": text for key, text in (curve | {name: str(path)}).items()})
    with pytest.raises(UsageError, match="missing: CURVE takes curve_secret, curve_server, curve_clients"):
        ZmqOptions(**{key: text for key, text in curve.items() if key != name})  # type: ignore[arg-type]


def test_a_public_key_is_no_secret_one(curve: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="holds no secret key"):
        Zmq(ZmqOptions(**(curve | {"curve_secret": curve["curve_server"]})))  # type: ignore[arg-type]


@pytest.fixture
def dealer(case: Case) -> zmq.Socket[bytes]:
    """A socket of a peer with an implementation of its own."""
    context = case.stack.enter_context(zmq.Context())
    made = case.stack.enter_context(context.socket(zmq.DEALER))
    made.linger, made.rcvtimeo = 0, 10_000
    return made


DESCRIBED = describe(Message("x", {}, {"x": np.zeros(3, np.float32)}))[0]


def asked(description: bytes, kind: int, deadline: float = float("inf")) -> bytes:
    """The beginning of the first frame of a message with `description`."""
    head = zmq_frames.HEAD.pack(zmq_frames.MAGIC, 10**6, deadline, len(description), kind)
    return head + description


WHOLE, APART = (asked(DESCRIBED, kind) for kind in (zmq_frames.JOINED, zmq_frames.SMALL))


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ([b""], "does not begin a message"),
        ([b"spz1"], "does not begin a message"),
        ([asked(b"\x01", zmq_frames.SMALL)], "describe no message"),
        ([WHOLE[:-1]], "describe no message"),
        ([APART], "0 tensors came, and 1 were described"),
        ([APART, bytes(12), b""], "2 tensors came, and 1 were described"),
        ([APART, bytes(11)], "takes 12 bytes, 11 came"),
        ([WHOLE], "takes 12 bytes, 0 came"),
        ([WHOLE + bytes(13)], "13 bytes of tensors came, and 12 were described"),
        ([WHOLE + bytes(12), b""], "1 frames came after a whole message"),
    ],
)
def test_messages_that_are_none_are_answered_with_an_error(
    case: Case, dealer: zmq.Socket[bytes], said: list[bytes], error: str
) -> None:
    dealer.connect(zmq_frames.endpoint(case.serve(echo).address))
    dealer.send_multipart(said)
    reply = zmq_frames.read((zmq_frames.opened(dealer.recv())[2], []))
    assert reply.fields["kind"] == MalformedMessage.kind
    assert error in str(reply.fields["text"])


def test_a_frame_above_the_limit_ends_its_connection_alone(case: Case, dealer: zmq.Socket[bytes]) -> None:
    server = case.serve(echo, limit=2**21)
    known = case.connect(server.address)
    dealer.reconnect_ivl = -1
    with dealer.get_monitor_socket(zmq.EVENT_DISCONNECTED) as lost:
        dealer.connect(zmq_frames.endpoint(server.address))
        dealer.send_multipart([APART, bytes(2**22)])
        assert lost.poll(20_000)
        dealer.disable_monitor()
    assert known.call(Message("x"), 5) == Message("x")


def test_a_request_past_its_deadline_is_not_begun(case: Case, dealer: zmq.Socket[bytes]) -> None:
    begun: list[str] = []
    server = case.serve(lambda message: (begun.append(message.method), message)[1])
    dealer.connect(zmq_frames.endpoint(server.address))
    for name, deadline in (("late", time.monotonic() - 0.001), ("early", time.monotonic() + 60)):
        dealer.send(asked(describe(Message(name))[0], zmq_frames.JOINED, deadline))
        dealer.recv()
    assert begun == ["early"]


def test_threads_start_when_calls_overlap_and_end_with_the_server(case: Case, ping: Message) -> None:
    together = threading.Barrier(4)

    def hold(message: Message) -> Message:
        if message.fields:
            together.wait(20)
        return message

    server = case.serve(hold, workers=8)
    own = [f"zmq-{server.address.port}"]
    connections = [case.connect(server.address) for _ in range(4)]
    for connection in connections:
        assert connection.call(ping, 5) == ping
    names = [thread.name for thread in threading.enumerate()]
    assert 1 <= names.count(own[0]) <= 2
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(one.call, Message("x", {"wait": 1}), 20) for one in connections]
        assert [call.result().method for call in calls] == ["x"] * 4
    server.close()
    assert own[0] not in [thread.name for thread in threading.enumerate()]


def test_connections_that_come_and_go_leave_no_descriptor(case: Case, ping: Message) -> None:
    """A thread of ZeroMQ closes their sockets."""
    server = case.serve(echo)

    def visit() -> None:
        with ExitStack() as stack:
            for _ in range(20):
                one = stack.enter_context(Zmq(ZmqOptions()).connect(server.address))
                assert one.call(ping, 5) == ping

    visit()
    before = psutil.Process().num_fds()
    for _ in range(5):
        visit()
    end = time.monotonic() + 20
    while psutil.Process().num_fds() > before + 20:
        assert time.monotonic() < end
        threading.Event().wait(0.01)


def test_an_address_that_is_none_is_a_connect_error(case: Case) -> None:
    for address in (transports.Address("no host.invalid", 1), transports.Address(HOST, 2**17)):
        with in_time(3), pytest.raises(ConnectError, match=str(address.port)):
            case.transport(Limits.max_message).connect(address)
        with pytest.raises(ConnectError, match=f"cannot bind .*{address.port}"):
            case.transport(Limits.max_message).serve(echo, *address, 1)


def test_a_connection_whose_first_answer_overtakes_the_event_of_its_connection_is_kept() -> None:
    """The event stays in the monitor until it is read; an earlier version took the connection for an ended one."""
    transport = transports.make("zmq")
    with transport.serve(lambda message: message, "127.0.0.1", 0, 2) as server:
        for _ in range(50):
            with transport.connect(server.address) as connection:
                assert not connection.stale()
                assert connection.call(transports.Message("ping"), 10.0).method == "ping"
                assert not connection.stale()
