"""Orders to a fork server, and its events: one line of JSON each, over a pipe that may lead to another machine.

    launcher                         fork server
        <- the line MARK, `Hello`        versions and facts of the host
    `Begin` ->                           the fork server loads TensorFlow
    `Ask`, `Store`, `Secret`, `Start`, `Signal`, `Tail`, `Tick`, `Alive` ->
        <- `Begun`, `Lacking`, `Ready`, `Ended`, `Tailed`, `Tock`

Orders are carried out in sequence. Lines before MARK were printed by a shell, or at the start of the interpreter.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from cluster.config import Config

MARK = b"events of the fork server:"
CHUNK = 2**18
"""Most bytes of a file in one order."""


class Hello(Struct, frozen=True, tag=True):
    """The first event: the host describes itself, before it loads TensorFlow."""

    folder: str
    """The folder of the fork server's files, which it deletes at its end."""
    versions: dict[str, str | None]
    """The result of `cluster.facts.versions`."""
    facts: dict[str, Any]
    """The result of `cluster.facts.facts`."""


class Begin(Struct, frozen=True, tag=True):
    """Load TensorFlow, then carry out orders. Before this order, only the interpreter and probes run."""


class Begun(Struct, frozen=True, tag=True):
    """TensorFlow is loaded."""


class Alive(Struct, frozen=True, tag=True):
    """The launcher is still there."""

    silence: float
    """Seconds without an order after which the fork server ends, since the connection is lost."""


class Ask(Struct, frozen=True, tag=True):
    """Asks which of these contents are not in the store yet."""

    sha256: list[str]


class Lacking(Struct, frozen=True, tag=True):
    sha256: list[str]


class Store(Struct, frozen=True, tag=True):
    """A piece of the content with that SHA-256, at `offset`; the pieces come in sequence, `last` at the end."""

    sha256: str
    offset: int
    data: bytes
    last: bool


class Secret(Struct, frozen=True, tag=True):
    """A file `secrets/NAME` in the fork server's folder, which only its user can read, and which is never cached."""

    name: str
    data: bytes


class Start(Struct, frozen=True, tag=True):
    """Start a process with the files in its document, whose contents have been stored."""

    name: str
    config: Config


class Signal(Struct, frozen=True, tag=True):
    name: str
    number: int


class Tail(Struct, frozen=True, tag=True):
    name: str


class Tick(Struct, frozen=True, tag=True):
    """Asks for the time on the host."""


class Ready(Struct, frozen=True, tag=True):
    name: str
    addresses: dict[str, str]


class Ended(Struct, frozen=True, tag=True):
    name: str
    status: int
    tail: str


class Tailed(Struct, frozen=True, tag=True):
    name: str
    tail: str


class Tock(Struct, frozen=True, tag=True):
    time: float
    """Seconds since the epoch, by the clock of the host."""
    load: float
    """The host's load average over a minute."""


Request = Begin | Alive | Ask | Store | Secret | Start | Signal | Tail | Tick
Answer = Lacking | Ready | Ended | Tailed | Tock
Event = Hello | Begun | Answer
