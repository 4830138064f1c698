"""The errors that can occur between two processes, as one tree.

    SplitbenchError
    ├── UsageError             a value that cannot be used; nothing was started (exit status 2)
    └── WireError              something failed while a message was on its way (exit status 1)
        ├── ConnectError       no server listens at the address, or the connection failed
        ├── ConnectionLost     the peer went away during a call
        ├── DeadlineExceeded   no answer came in time
        ├── MessageTooLarge    a message is above the limit of one of the two ends
        ├── MalformedMessage   the bytes received do not describe a valid message
        ├── ResourceExhausted  the server has no free worker for the call
        └── RemoteError        the handler at the other end failed

Each transport maps the exceptions of its library into this tree in one place, its own file. A subclass of `WireError`
has a `kind`, the word that names it on the wire; `from_kind` finds the class again at the other end. Only the kind and
the text cross the wire: never a traceback, and never a type chosen by the peer.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar


class SplitbenchError(Exception):
    """Base class of every error that the project raises on purpose."""


class UsageError(SplitbenchError):
    """A value that cannot be used; the text says what would be valid."""


class WireError(SplitbenchError):
    """An error that can cross the wire as its `kind` and its text."""

    kind: ClassVar[str] = "error"
    remote: bool = False
    """Whether the handler at the other end raised the error, which shows that the peer is alive."""
    kinds: ClassVar[dict[str, type[WireError]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        other = WireError.kinds.setdefault(cls.kind, cls)
        if other is not cls:
            raise TypeError(f"{cls.__name__} and {other.__name__} share the kind {cls.kind!r}")


class ConnectError(WireError):
    kind = "connect"


class ConnectionLost(WireError):
    kind = "connection-lost"


class DeadlineExceeded(WireError):
    kind = "deadline"


class MessageTooLarge(WireError):
    kind = "too-large"


class MalformedMessage(WireError):
    kind = "malformed"


class ResourceExhausted(WireError):
    kind = "exhausted"


class RemoteError(WireError):
    kind = "remote"


def from_kind(kind: str, text: str) -> WireError:
    """The error that a peer sent as `kind` and `text`; a `RemoteError` for an unknown kind."""
    error = WireError.kinds.get(kind, RemoteError)(text)
    error.remote = True
    return error


def suggest(word: str, valid: Iterable[str]) -> str:
    """The end of an error text: `"; did you mean 'grpc'? (valid: none, rpyc, ...)"`."""
    names = list(valid)
    near = difflib.get_close_matches(word, names, n=1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    return f"; {meant}(valid: {', '.join(names)})"
