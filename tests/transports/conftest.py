"""The transports as test cases: every transport in `transports.NAMES` is tested, without a change to the tests."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import transports
from tests.transports.authority import Authority
from transports import Address, Connection, Handler, Limits, Message, Server, Transport
from transports.plain_sockets import Unix
from transports.sockets import Deadline

VARIANTS: Mapping[str, Mapping[str, Any]] = {"": {}, "stream": {"send": "stream", "chunk": 50_000}}
"""Third word of a case -> the options of the transport."""
CASES = [f"{name}/{codec}" for name in transports.NAMES for codec in transports.load(name).codecs] + [
    f"{name}/raw/stream" for name in transports.NAMES if hasattr(transports.kind(name).Options, "send")
]
REMOTE = [case for case in CASES if transports.kind(case.partition("/")[0]).addressing != "in-process"]
TLS = [case for case in REMOTE if transports.kind(case.partition("/")[0]).secure == "tls"]
HOST = "127.0.0.1"


@dataclass
class Case:
    """A transport in one of its codecs. Its servers and connections close at the end of the test."""

    name: str
    codec: str = ""
    variant: str = ""
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def kind(self) -> type[Transport]:
        return transports.kind(self.name)

    def transport(self, limit: int = Limits.max_message, **options: Any) -> Transport:
        kind = transports.load(self.name)
        return kind(kind.Options(max_message=limit, **VARIANTS[self.variant], **options))

    def serve(
        self, handler: Handler, workers: int = 4, port: int = 0, limit: int = Limits.max_message, **options: Any
    ) -> Server:
        return self.stack.enter_context(self.transport(limit, **options).serve(handler, HOST, port, workers))

    def connect(
        self, address: Address, limit: int = Limits.max_message, timeout: float = 5.0, **options: Any
    ) -> Connection:
        return self.stack.enter_context(self.transport(limit, **options).connect(address, self.codec, timeout))

    def echo(self) -> Connection:
        return self.connect(self.serve(lambda message: message).address)


def made(request: pytest.FixtureRequest) -> Iterator[Case]:
    case = Case(*request.param.split("/"))
    with case.stack:
        yield case


any_transport = pytest.fixture(params=CASES)(made)
remote_transport = pytest.fixture(params=REMOTE)(made)
tls_transport = pytest.fixture(params=TLS)(made)


def listening(kind: type[Transport]) -> tuple[socket.socket, Address]:
    """A bare socket that listens where `kind` would, and its address."""
    if kind.addressing == "path":
        return Unix().bind(Address(HOST, 0))
    sock = socket.create_server((HOST, 0))
    return sock, Address(*sock.getsockname())


def dialled(kind: type[Transport], address: Address) -> socket.socket:
    """A bare socket that is connected to `address`, an address of the transport `kind`."""
    if kind.addressing == "path":
        return Unix().dial(address, Deadline.after(20))
    return socket.create_connection(address, 20)


def peers_that_say(
    said: bytes, kind: type[Transport], server: Server, stack: ExitStack, count: int = 20
) -> list[socket.socket]:
    """Connections that send `said` and nothing more. The server may drop a connection before all of `said` is sent."""
    peers = [stack.enter_context(dialled(kind, server.address)) for _ in range(count)]
    for peer in peers:
        with suppress(OSError):
            peer.sendall(said)
    return peers


def assert_hung_up(peers: Iterable[socket.socket]) -> None:
    """Wait until the other end has closed every connection; `TimeoutError` if one stays open for 20 seconds."""
    for peer in peers:
        peer.settimeout(20)
        with suppress(ConnectionResetError):
            while peer.recv(1000):
                pass


@pytest.fixture
def ping() -> Message:
    return Message("ping")


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """The authority that both ends trust."""
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="session")
def tls(authority: Authority) -> dict[str, str]:
    """Options that make an end speak TLS as `HOST`."""
    return authority.issue(HOST)


@pytest.fixture(scope="session")
def stranger(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options of an end that trusts the right authority, but has a certificate of an untrusted one."""
    folder: Path = tmp_path_factory.mktemp("stranger")
    return Authority(folder).issue(HOST) | {"tls_ca": str(authority.path)}
