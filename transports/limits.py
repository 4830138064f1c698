"""The options that every transport has: limits on messages and waiting, and the files of TLS."""

from __future__ import annotations

from dataclasses import dataclass

from transports.errors import UsageError

ENVELOPE = 2**20
"""Bytes that a message may take in addition to its tensors: for method, fields, names, dtypes and shapes."""

PARTS = 4096
"""Most fields of a message, and most tensors."""

NAME = 1024
"""Most characters of a method, a field's key or a tensor's name."""

TEXT = 2**17
"""Most characters of all names and text fields of a message together; at four bytes each they fit the `ENVELOPE`."""

CONNECTIONS = 1024
"""Most connections that a server over sockets holds at a time. It closes further connections at once."""

GRACE = 5.0
"""Seconds for which a closing server waits for handlers that still run."""

MOST = 2**31 - 1 - ENVELOPE
"""The largest `max_message` in bytes: with the envelope, protobuf can carry no more in one message."""

DAY = 86_400
"""The longest time limit that can be given, in seconds."""
WHEN_FULL = ("refuse", "wait")
TLS_FILES = ("tls_cert", "tls_key", "tls_ca")


@dataclass(frozen=True)
class Limits:
    """The options that every transport has. A transport with further options has a subclass (`Transport.Options`).

    Raises `UsageError` if only some of the TLS files are given, and for a figure out of range.
    """

    max_message: int = 256 * 2**20
    """Largest payload that an end sends or receives, in bytes."""
    stall: float = 60.0
    """Seconds for which a server waits for a peer that has begun a handshake or a message and sends nothing more. gRPC
    delivers a unary message only once it is complete, so with gRPC this is the time that a whole message may take."""
    when_full: str = "refuse"
    """What a server does with a call for which no worker is free: `refuse` it at once, or let it `wait`, as gRPC's own
    servers do. With `wait`, nested calls that need each other's workers wait for ever."""
    tls_cert: str = ""
    """PEM file of this end's certificate. With all three files, both ends authenticate; with none, there is no TLS."""
    tls_key: str = ""
    """PEM file of the certificate's key, not encrypted."""
    tls_ca: str = ""
    """PEM file of the authority that must have signed the peer's certificate."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_message <= MOST:
            raise UsageError(f"max_message: {self.max_message} bytes cannot be a limit; valid: 1 to {MOST}")
        if not 0 < self.stall <= DAY:
            raise UsageError(f"stall: {self.stall:g} s is out of range; valid: more than 0, up to {DAY} seconds")
        if self.when_full not in WHEN_FULL:
            raise UsageError(f"when_full: {self.when_full!r} is no choice; valid: {', '.join(WHEN_FULL)}")
        missing = [name for name in TLS_FILES if not getattr(self, name)]
        if 0 < len(missing) < len(TLS_FILES):
            raise UsageError(f"{' and '.join(missing)} missing: TLS takes {', '.join(TLS_FILES)}, all three or none")

    @property
    def tls(self) -> bool:
        """Whether both ends speak TLS."""
        return bool(self.tls_cert)

    @property
    def protected(self) -> bool:
        """Whether both ends authenticate: by TLS, or by the transport's own mechanism."""
        return self.tls
