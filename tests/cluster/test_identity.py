"""How the processes of an experiment prove their identity, tested by real TLS handshakes."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from pathlib import Path

import pytest

from cluster.identity import NOBODY, Identity, given, throwaway
from transports.errors import UsageError

ADDRESSES = ("10.77.0.2", "fd00::2", "pi-1.lan")


def handshake(server: Path, client: Path, address: str, proves: bool = True) -> None:
    """A handshake in memory, with the server's files and the client's, to a server at `address`. Raises `SSLError`."""
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 a client learns only later that it was refused
    accepting.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.create_default_context(cafile=str(client / "tls_ca"))
    accepting.load_verify_locations(server / "tls_ca")
    accepting.load_cert_chain(server / "tls_cert", server / "tls_key")
    if proves:
        calling.load_cert_chain(client / "tls_cert", client / "tls_key")
    one, other = ssl.MemoryBIO(), ssl.MemoryBIO()
    going = [
        calling.wrap_bio(one, other, server_hostname=address),
        accepting.wrap_bio(other, one, server_side=True),
    ]
    while going:
        for end in [*going]:
            try:
                end.do_handshake()
                going.remove(end)
            except ssl.SSLWantReadError:
                pass


def written(folder: Path, addresses: Sequence[str] = ADDRESSES) -> Path:
    folder.mkdir()
    throwaway(["tcp"], addresses).write(folder)
    return folder


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("identity") / "own")


@pytest.mark.parametrize("address", [*ADDRESSES, "127.0.0.1", "localhost"])
def test_a_certificate_is_accepted_at_each_address(own: Path, address: str) -> None:
    handshake(own, own, address)


@pytest.mark.parametrize("address", ["10.77.0.3", "pi-2.lan", "lan"])
def test_a_certificate_is_refused_at_another_address(own: Path, address: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match=r"mismatch|not valid for"):
        handshake(own, own, address)


def test_another_experiment_is_refused_in_both_roles(own: Path, tmp_path: Path) -> None:
    other = written(tmp_path / "other")
    for server, client in ((own, other), (other, own)):
        with pytest.raises(ssl.SSLError):
            handshake(server, client, ADDRESSES[0])


def test_a_client_without_a_certificate_is_refused(own: Path) -> None:
    with pytest.raises(ssl.SSLError, match=r"(?i)peer.did.not.return.a.certificate"):
        handshake(own, own, ADDRESSES[0], proves=False)


def test_files_are_only_for_their_user_and_the_authority_cannot_sign_again(own: Path) -> None:
    assert {path.name: path.stat().st_mode & 0o777 for path in own.iterdir()} == dict.fromkeys(
        ("tls_cert", "tls_key", "tls_ca"), 0o600
    )
    assert sum(path.read_text().count("PRIVATE KEY-----\n") for path in own.iterdir()) == 2, "begin and end of one"


def test_options_name_the_files_of_each_transport() -> None:
    made = throwaway(["grpc", "zmq"], ["10.77.0.2"]).options(["grpc", "zmq"], "/x")
    assert {name: made[name] for name in ("grpc.tls_cert", "grpc.tls_ca", "zmq.curve_clients")} == {
        "grpc.tls_cert": "/x/tls_cert",
        "grpc.tls_ca": "/x/tls_ca",
        "zmq.curve_clients": "/x",
    }
    assert NOBODY.options(["grpc", "zmq"], "/x") == {}
    assert Identity({"tls_cert": b""}).options(["zmq"], "/x") == {}


def test_the_users_own_files_are_read_or_named(own: Path, tmp_path: Path) -> None:
    paths = [str(own / name) for name in ("tls_cert", "tls_key", "tls_ca")]
    assert given(paths).files["tls_key"] == (own / "tls_key").read_bytes()
    with pytest.raises(UsageError, match=r"--tls-key: cannot read .*nowhere: No such file"):
        given([paths[0], str(tmp_path / "nowhere"), paths[2]])
