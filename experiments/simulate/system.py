"""The simulated system: hosts, servers, the messages of a request, and how long each step takes. Frozen records.

A `Visit` is a message at a server. In `nested` and `forward` a visit causes further visits; in `hub` the client sends
all messages.
Each step of a request (`Work`) has a column in a matrix of seconds, of which each request has a row (`draws`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.links.link import Link
from experiments.simulate.draws import Draws
from experiments.simulate.resources import IDEAL, Contention

CLIENT = "client"
"""The process that makes the requests, and its host if it has one of its own."""
ENOUGH = 2**31
"""More workers, or requests in flight, than are ever in use."""


@dataclass(frozen=True)
class Work:
    """A step of a request in one process."""

    column: int
    """The column of a request's draws with the seconds that the step takes if nothing else runs."""
    cores: float = 1.0
    """Cores that the step keeps busy, on average. Below one, the rest of the seconds passes without a core."""


@dataclass(frozen=True)
class Call:
    """A message from one process to another, and its answer."""

    send: Work
    receive: Work
    reply: Work
    accept: Work
    """Reading the answer, in the process that has sent the message."""
    there: int = 0
    """Bytes of the message."""
    back: int = 0
    """Bytes of its answer."""


@dataclass(frozen=True)
class Visit:
    """A message at a server, and what follows from it."""

    server: int
    call: Call
    compute: Work | None = None
    """The work of the stages that it completes; None if they still lack inputs."""
    sends: tuple[int, ...] = ()
    """The visits that the server sends afterwards, in this order (flows `nested` and `forward`)."""
    after: tuple[int, ...] = ()
    """Earlier visits of the same server whose tensors the stages need as well (flow `forward`)."""
    result: Call | None = None
    """The message that brings outputs of the model to the client (flow `forward`)."""


@dataclass(frozen=True)
class Server:
    """A portion of the model, held by one process or by several that take turns."""

    hosts: tuple[str, ...]
    """The host of each replica."""
    slots: int
    """Stages that a process executes at a time."""
    workers: int = ENOUGH
    """Calls that a process handles at a time; it refuses further ones."""


@dataclass(frozen=True)
class System:
    """Everything but the load."""

    hosts: Mapping[str, int]
    """Host -> its cores, which all of its processes share."""
    servers: tuple[Server, ...]
    flow: str
    visits: tuple[Visit, ...]
    roots: tuple[int, ...]
    """The visits that the client sends, in order."""
    draws: Draws
    client: str = CLIENT
    """The host of the client."""
    links: Mapping[tuple[str, str], Link] = field(default_factory=dict)
    """(source host, target host) -> the link in this direction."""
    shares: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Host without cores of its own -> the hosts whose cores it uses; of several, always the least busy one."""
    between: Work | None = None
    """The client's work after a request, which is not part of the latency."""
    timeout: float = float("inf")
    """Seconds after which the client gives up a request."""
    contention: Contention = IDEAL
    """The contention for the cores of each host."""
    threads: int = ENOUGH
    """Requests that the client keeps in flight at most, under an open-loop load."""
