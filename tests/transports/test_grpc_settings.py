"""What only gRPC has: status codes, stubs and separate connections."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest

from tests.transports.conftest import HOST
from tools import stubs
from transports import Address, Message
from transports.errors import ConnectError, DeadlineExceeded, WireError
from transports.grpc_client import STATUS
from transports.grpc_server import threads
from transports.grpc_transport import Grpc
from transports.pool import Pool
from transports.watchdog import Cancellable, Watchdog


@pytest.mark.parametrize("status", grpc.StatusCode)
def test_every_status_has_a_wire_error(status: grpc.StatusCode) -> None:
    assert issubclass(STATUS[status], WireError)


def links_to(address: Address) -> int:
    """TCP connections of this process to `address`."""
    return sum(bool(c.raddr) and c.raddr.port == address.port for c in psutil.Process().net_connections("tcp"))


@pytest.mark.parametrize(("mode", "links"), [("pooled", 1), ("per-hop", 2)])
def test_the_threads_of_a_pool_share_one_channel_unless_each_call_has_its_own(mode: str, links: int) -> None:
    with Grpc().serve(lambda message: message, HOST, 0, 2) as server, Pool(Grpc(), mode) as pool:
        with pool.connection(server.address) as (one, new), pool.connection(server.address) as (other, also_new):
            assert one.call(Message("x"), 5) == other.call(Message("x"), 5)
            assert links_to(server.address) == links
            assert (new, also_new) == (True, mode == "per-hop")
        assert pool.made == links


def test_a_lost_call_leaves_the_calls_of_other_threads_alone() -> None:
    """The thread of the lost call leaves the shared channel, which closes with the last call on it."""
    begun, release = threading.Event(), threading.Event()

    def handle(message: Message) -> Message:
        if message.method == "hold":
            begun.set()
            assert release.wait(20)
        elif message.method == "late":
            release.wait(20)
        return message

    with (
        Grpc().serve(handle, HOST, 0, 4) as server,
        Pool(Grpc()) as pool,
        ThreadPoolExecutor(1) as threads_of_others,
    ):
        held = threads_of_others.submit(pool.call, server.address, Message("hold"), 20.0)
        assert begun.wait(20)
        with pytest.raises(DeadlineExceeded):
            pool.call(server.address, Message("late"), 2)
        assert pool.call(server.address, Message("x"), 5) == (Message("x"), True)
        release.set()
        assert held.result()[0] == Message("hold")
        assert pool.made == 2


def test_a_chunked_call_ends_only_when_the_server_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The call keeps its thread after the last chunk; a caller that went on at once would find no free thread."""
    sending = Watchdog.sending

    def slow_to_end(self: Watchdog, stream: Iterator[bytes], call: Cancellable) -> Iterator[bytes]:
        yield from sending(self, stream, call)
        threading.Event().wait(0.1)

    monkeypatch.setattr(Watchdog, "sending", slow_to_end)
    transport = Grpc(Grpc.Options(send="stream"))
    with (
        transport.serve(lambda message: message, HOST, 0, 1) as server,
        transport.connect(server.address) as connection,
    ):
        assert {connection.call(Message("x"), 5).method for _ in range(threads(1) + 2)} == {"x"}


def test_a_grpc_server_of_somebody_else_is_refused() -> None:
    server = grpc.server(ThreadPoolExecutor(1))
    port = server.add_insecure_port(f"{HOST}:0")
    server.start()
    with pytest.raises(ConnectError, match="UNIMPLEMENTED"):
        Grpc().connect(Address(HOST, port))
    server.stop(None).wait()


def test_the_committed_stubs_are_what_the_compiler_emits() -> None:
    pytest.importorskip("grpc_tools")
    assert stubs.stale() == []


def test_a_stale_stub_is_named(tmp_path, monkeypatch, capsys) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("grpc_tools")
    for path in (stubs.PROTO, *stubs.STUBS):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text((stubs.ROOT / path).read_text())
    monkeypatch.setattr(stubs, "ROOT", tmp_path)
    (tmp_path / stubs.STUBS[0]).write_text("# edited by hand\n")
    (tmp_path / stubs.STUBS[1]).unlink()
    assert stubs.main(["--check"]) == 1
    complaints = capsys.readouterr().err.splitlines()
    assert [line.partition(" is not what grpcio-tools")[0] for line in complaints] == list(stubs.STUBS)
    assert stubs.main([]) == 0
    assert stubs.main(["--check"]) == 0
