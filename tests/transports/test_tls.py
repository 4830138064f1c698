"""Mutual TLS over every transport that has sockets, and what is refused."""

from __future__ import annotations

import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import transports
from tests.lateness import in_time
from tests.transports.authority import Authority
from tests.transports.conftest import HOST, Case
from transports import Limits, Message, check_host
from transports.errors import ConnectError, UsageError
from transports.sockets import send_all
from transports.tls import accepted, dialled, load

Options = dict[str, str]


def echo(message: Message) -> Message:
    return message


def test_both_ends_with_certificates_talk(tls_transport: Case, tls: Options) -> None:
    connection = tls_transport.connect(tls_transport.serve(echo, **tls).address, **tls)
    fields, x = {"text": "è", "n": -1}, np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    for _ in range(20):
        reply = connection.call(Message("echo", fields, {"x": x}), 5)
        assert reply.fields == fields
        assert np.array_equal(reply.tensors["x"], x)


def test_a_large_tensor_crosses_under_tls(tls_transport: Case, tls: Options) -> None:
    connection = tls_transport.connect(tls_transport.serve(echo, **tls).address, **tls)
    big = np.random.default_rng(0).integers(0, 4, 9 * 2**20, np.uint8)
    assert np.array_equal(connection.call(Message("echo", {}, {"x": big}), 30).tensors["x"], big)


@pytest.mark.parametrize("who", ["another authority's", "plain text"])
def test_a_client_with_an_unsigned_certificate_is_refused(
    tls_transport: Case, ping: Message, tls: Options, stranger: Options, who: str
) -> None:
    server = tls_transport.serve(echo, stall=2.0, **tls)
    known = tls_transport.connect(server.address, **tls)
    with in_time(4), pytest.raises(ConnectError, match=str(server.address.port)):
        tls_transport.connect(server.address, **(stranger if who != "plain text" else {}))
    assert known.call(ping, 5) == ping
    assert tls_transport.connect(server.address, **tls).call(ping, 5) == ping


def test_a_client_without_a_certificate_is_refused(tls_transport: Case, ping: Message, tls: Options) -> None:
    server = tls_transport.serve(echo, **tls)
    transport = tls_transport.transport(**tls)
    _bare(transport, tls)
    with in_time(4), pytest.raises(ConnectError, match=str(server.address.port)):
        transport.connect(server.address, tls_transport.codec, 5)
    assert tls_transport.connect(server.address, **tls).call(ping, 5) == ping


def _bare(transport: Any, tls: Options) -> None:
    """Let `transport` trust the authority, but show no certificate of its own."""
    context = ssl.create_default_context(cafile=tls["tls_ca"])
    context.sslsocket_class = transport._tls.client.sslsocket_class
    transport._tls = replace(transport._tls, cert=None, key=None, client=context)


def test_a_server_of_another_authority_is_refused(tls_transport: Case, tls: Options, stranger: Options) -> None:
    server = tls_transport.serve(echo, **stranger)
    with pytest.raises(ConnectError, match=str(server.address.port)):
        tls_transport.connect(server.address, **tls)


def test_a_server_that_bears_another_name_is_refused(tls_transport: Case, tls: Options, authority: Authority) -> None:
    server = tls_transport.serve(echo, **authority.issue("elsewhere.example"))
    with pytest.raises(ConnectError, match=str(server.address.port)):
        tls_transport.connect(server.address, **tls)


def test_a_server_in_plain_text_is_refused_in_time(tls_transport: Case, ping: Message, tls: Options) -> None:
    server = tls_transport.serve(echo)
    with in_time(4), pytest.raises(ConnectError, match=str(server.address.port)):
        tls_transport.connect(server.address, timeout=1, **tls)
    assert tls_transport.connect(server.address).call(ping, 5) == ping


def test_a_slow_reader_makes_progress_under_tls_too(tls: Options) -> None:
    """The bytes that it reads within `patience` are a small part of the whole."""
    own = load(Limits(**tls))
    with socket.create_server((HOST, 0)) as listener, ThreadPoolExecutor(1) as threads:
        left = dialled(socket.create_connection(listener.getsockname()), HOST, own)
        left.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)
        right = accepted(listener.accept()[0], own)
        with left, right:
            greeted = threads.submit(left.greet)
            right.greet()
            greeted.result()
            right.patience = 0.5
            right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
            read = threads.submit(_read_slowly, left, 2**22)
            send_all(right, [bytes(2**22)])
            assert read.result() == 2**22


def _read_slowly(sock: socket.socket, size: int) -> int:
    count = 0
    while count < size:
        count += len(sock.recv(2**16))
        threading.Event().wait(0.005)
    return count


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_nothing_older_than_tls_1_2_is_spoken(tls_transport: Case, tls: Options) -> None:
    server = tls_transport.serve(echo, **tls)
    context = ssl.create_default_context(cafile=tls["tls_ca"])
    context.load_cert_chain(tls["tls_cert"], tls["tls_key"])
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection(server.address, 5) as sock, pytest.raises(OSError, match=r"SSL|reset"):
        context.wrap_socket(sock, server_hostname=HOST)


@pytest.mark.parametrize("given", [["tls_cert"], ["tls_cert", "tls_ca"], ["tls_key", "tls_ca"]])
def test_some_of_the_files_are_none(given: list[str]) -> None:
    with pytest.raises(UsageError, match="missing: TLS takes tls_cert, tls_key, tls_ca, all three or none"):
        Limits(**dict.fromkeys(given, "file.pem"))  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", ["tls_cert", "tls_key", "tls_ca"])
def test_files_that_cannot_be_used_are_refused_before_anything_starts(
    tls_transport: Case, tls: Options, tmp_path: Path, bad: str
) -> None:
    (odd := tmp_path / "odd.pem").write_text("no certificate\n")
    for path in (tmp_path / "absent.pem", tmp_path, odd):
        options = {f"{tls_transport.name}.{key}": value for key, value in (tls | {bad: str(path)}).items()}
        with pytest.raises(UsageError, match=bad):
            transports.make(tls_transport.name, options)


def test_none_has_no_wire_to_protect(ping: Message) -> None:
    transport = transports.make("none", {f"none.{name}": "absent.pem" for name in ("tls_cert", "tls_key", "tls_ca")})
    with transport.serve(echo, HOST, 0, 1) as server, transport.connect(server.address) as connection:
        assert connection.call(ping, 5) == ping


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_the_machine_itself_may_listen_in_plain_text(host: str) -> None:
    assert check_host(host, Limits()) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "::ffff:127.0.0.1"])
def test_nothing_listens_to_others_without_tls_or_a_word(host: str, tls: Options) -> None:
    with pytest.raises(UsageError, match=r"tls_cert, tls_key, tls_ca, listen at 127\.0\.0\.1, or allow it"):
        check_host(host, Limits())
    assert "without TLS anyone there can call" in check_host(host, Limits(), insecure=True)
    assert check_host(host, Limits(**tls)) == ""  # type: ignore[arg-type]


def test_a_host_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'no host\.invalid' is no address of this machine"):
        check_host("no host.invalid", Limits())
