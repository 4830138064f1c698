"""The options that only gRPC has."""

from __future__ import annotations

from dataclasses import dataclass

from transports.errors import UsageError, suggest
from transports.limits import Limits

SENDS = ("unary", "stream")
LEAST_CHUNK, MOST_CHUNK = 2**10, 2**26


@dataclass(frozen=True)
class GrpcOptions(Limits):
    """The options of gRPC. A server accepts both kinds of call, whatever its own `send` says."""

    send: str = "unary"
    """How a client sends a message and gets the answer: whole (`unary`) or in chunks (`stream`)."""
    chunk: int = 2**20
    """Bytes of a message in one chunk, at both ends."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.send not in SENDS:
            raise UsageError(f"send: {self.send!r} is no way to send a message{suggest(self.send, SENDS)}")
        if not LEAST_CHUNK <= self.chunk <= MOST_CHUNK:
            raise UsageError(f"chunk: {self.chunk} is out of range; valid: {LEAST_CHUNK} to {MOST_CHUNK} bytes")
