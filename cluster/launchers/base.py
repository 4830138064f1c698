"""The contract of a launcher: everything that an implementer must read.

A launcher starts, signals, watches and ends processes *somewhere*: on this machine, on others, in another cluster.
`cluster.launch` and `cluster.model_servers` are written against this contract alone.

Rules:
  - A process is known by its name and never by a process id or a path: both mean nothing on another machine.
  - A process is started with one document (`cluster.config`) and its files. Files travel by content: the document
    names each one's SHA-256, the order says where this machine has that content, and the launcher copies what the
    other side does not have yet. The sources may be deleted once `start` has returned; a later order may name the
    same contents again.
  - A launcher sets `folder` in the document: the place where it put the files. The process verifies them itself.
  - READY, the exit status and the end of a log come back over a channel that no print of the process can disturb.
  - No process outlives its launcher, whichever of the two ends first and however.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Self

from cluster.config import Config
from transports.address import Address

START = 300.0
"""Seconds until a process has to be ready: loading a large model from a slow disk takes minutes."""
HINDSIGHT = 5.0
"""Seconds within which the end of a process becomes known after its peers have seen their connections close."""


@dataclass(frozen=True)
class Order:
    """A process to start."""

    name: str
    """Unique among the processes of the launcher that run."""
    config: Config
    contents: Mapping[str, Path] = field(default_factory=dict)
    """SHA-256 -> a file of this machine with that content, for every value of `config.files`."""
    host: str = ""
    """Where it runs, for a launcher with several hosts; empty: anywhere."""
    title: str = ""
    """What errors call it; empty: its name."""


class Launcher(ABC):
    """Starts processes and watches over them. A context manager; on exit every process is gone.

    Any method raises `ClusterDown` if the launcher itself has broken down.
    """

    @abstractmethod
    def start(self, order: Order) -> None:
        """Start a process. Returns once its files are handed over; it becomes ready meanwhile.

        Raises `ValueError` for the name of a process that runs, and `OSError` for a content that cannot be read.
        """

    @abstractmethod
    def addresses(self, name: str) -> Mapping[str, Address]:
        """Where `name` is reached, by transport or interface. Waits until it is ready.

        Raises `ClusterDown` if any process ends unexpectedly before that, or after `START` seconds.
        """

    @abstractmethod
    def signal(self, name: str, number: Signals) -> None:
        """Send a signal to the process `name` and to its own children; returns once it was sent.

        If the process ends by it, that end counts as unexpected.
        """

    @abstractmethod
    def stop(self, names: Sequence[str]) -> None:
        """End those of `names` that run by SIGTERM, then by SIGKILL if need be. Returns when all are gone.

        An end of theirs is expected from now on, and one in the past is forgiven.
        """

    @abstractmethod
    def kill(self, names: Sequence[str]) -> None:
        """`stop`, by SIGKILL at once."""

    @abstractmethod
    def running(self) -> frozenset[str]:
        """The names of the processes that run."""

    @abstractmethod
    def tail(self, name: str) -> str:
        """The last lines that the process `name` wrote to its log, also after its end; empty if there are none."""

    @abstractmethod
    def check(self, patience: float = 0.0) -> None:
        """Raise `ClusterDown`, with the last line of the log, if a process has ended unexpectedly, or does so within
        `patience` seconds."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exc: object) -> None: ...
