"""The transports as cases: whatever is in `transports.NAMES` is tested by being there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

import transports
from transports import Address, Connection, Handler, Limits, Message, Server

CASES = [(name, codec) for name in transports.NAMES for codec in transports.load(name).codecs]
REMOTE = [case for case in CASES if not transports.load(case[0]).local]
HOST = "127.0.0.1"


@dataclass
class Case:
    """A transport in one of its codecs; what is made through it ends with the test."""

    name: str
    codec: str
    stack: ExitStack = field(default_factory=ExitStack)

    def serve(self, handler: Handler, workers: int = 4, port: int = 0, limit: int = Limits.max_message) -> Server:
        transport = transports.load(self.name)(Limits(limit))
        return self.stack.enter_context(transport.serve(handler, HOST, port, workers))

    def connect(self, address: Address, limit: int = Limits.max_message, timeout: float = 5.0) -> Connection:
        transport = transports.load(self.name)(Limits(limit))
        return self.stack.enter_context(transport.connect(address, self.codec, timeout))

    def echo(self) -> Connection:
        return self.connect(self.serve(lambda message: message).address)


def made(request: pytest.FixtureRequest) -> Iterator[Case]:
    name, codec = request.param
    case = Case(name, codec)
    with case.stack:
        yield case


any_transport = pytest.fixture(params=CASES, ids="/".join)(made)
remote_transport = pytest.fixture(params=REMOTE, ids="/".join)(made)


@pytest.fixture
def ping() -> Message:
    return Message("ping")
