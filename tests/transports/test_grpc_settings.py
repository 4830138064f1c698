"""What is gRPC's own: its status codes, its stubs and its separate connections."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest

from tests.transports.conftest import HOST
from tools import stubs
from transports import Address, Message
from transports.errors import ConnectError, WireError
from transports.grpc_protobuf import STATUS, GrpcProtobuf
from transports.grpc_server import threads
from transports.watchdog import Cancellable, Watchdog


@pytest.mark.parametrize("status", grpc.StatusCode)
def test_every_status_is_an_error_of_ours(status: grpc.StatusCode) -> None:
    assert issubclass(STATUS[status], WireError)


def test_two_connections_are_two() -> None:
    transport, made = GrpcProtobuf(), psutil.Process().net_connections
    with (
        transport.serve(lambda message: message, HOST, 0, 2) as server,
        transport.connect(server.address) as one,
        transport.connect(server.address) as other,
    ):
        assert one.call(Message("x"), 5) == other.call(Message("x"), 5)
        assert len([c for c in made("tcp") if c.raddr and c.raddr.port == server.address.port]) == 2


def test_a_call_in_chunks_is_over_when_the_server_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread is still the call's after the last chunk; a caller who went on at once would find none left."""
    sending = Watchdog.sending

    def slow_to_end(self: Watchdog, stream: Iterator[bytes], call: Cancellable) -> Iterator[bytes]:
        yield from sending(self, stream, call)
        threading.Event().wait(0.1)

    monkeypatch.setattr(Watchdog, "sending", slow_to_end)
    transport = GrpcProtobuf(GrpcProtobuf.Options(send="stream"))
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
        GrpcProtobuf().connect(Address(HOST, port))
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


IMPORTS = {
    "none": (),
    "rpyc": ("rpyc",),
    "rpyc-tuned": ("rpyc",),
    "grpc": ("grpc", "google.protobuf"),
}


@pytest.mark.parametrize("name", IMPORTS)
def test_a_transport_imports_its_own_library_alone(name: str) -> None:
    libraries = ("grpc", "google.protobuf", "rpyc", "tensorflow", "keras", "pandas")
    code = f"import sys, transports; transports.load({name!r}); print(*(m for m in {libraries} if m in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == set(IMPORTS[name])
