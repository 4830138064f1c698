"""Where a server listens."""

from __future__ import annotations

from typing import NamedTuple

LAST_PORT = 2**16 - 1


class Address(NamedTuple):
    """Where a server listens. The transport `none` uses the port as a number that is unique in the process."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """`"127.0.0.1:8500"` -> `Address`. Raises `ValueError` for a text that is no address."""
        host, _, port = text.rpartition(":")
        if not host or not port.isdecimal() or int(port) > LAST_PORT:
            raise ValueError(f"{text[:100]!r} is no address: give HOST:PORT, a port up to {LAST_PORT}")
        return cls(host, int(port))
