"""The contract of a launcher: everything that an implementer must read.

A launcher starts, signals, watches and ends processes on this machine, on other machines, or in a cluster of another
system. `cluster.launch` and `cluster.model_servers` depend on this contract alone.

Rules:
  - A process is identified by its name, since process ids and paths mean nothing on another machine.
  - A process is started with one document (`cluster.config`) and its files. Files travel by content: the document
    has the SHA-256 of each file, the order names a local file with that content, and the launcher copies contents that
    the host lacks. The local files may be deleted once `start` has returned; a later order may name the same contents
    again.
  - A launcher caches contents on a host after verifying them, so that later experiments need not send them again.
  - A launcher sets `folder` in the document to the folder of the copied files. The process verifies them itself.
  - READY, the exit status and the last lines of a log return over a channel that no output of the process can disturb.
  - No process outlives its launcher, however the launcher ends.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from signal import Signals
from typing import Self

from cluster.config import Config
from cluster.launchers.protocol import Hello
from transports.address import Address

START = 300.0
"""Seconds within which a process has to be ready: loading a large model from a slow disk takes minutes."""
HINDSIGHT = 5.0
"""Seconds within which the launcher learns that a process has ended, after its peers' connections have closed."""


@dataclass(frozen=True)
class Order:
    """A process to start."""

    name: str
    """The name of the process, unique among the launcher's running processes."""
    config: Config
    contents: Mapping[str, Path] = field(default_factory=dict)
    """SHA-256 -> a local file with that content, for every value of `config.files`."""
    host: str = ""
    """The host on which the process runs, for a launcher with several hosts; empty: any."""
    title: str = ""
    """The name of the process in error texts; empty: `name`."""


@dataclass(frozen=True)
class Clock:
    """A host's clock and load, read through the launcher."""

    offset: float
    """Seconds by which the clock of the host is ahead of this one."""
    uncertainty: float
    """Largest error of the offset in seconds: half of the time for question and answer."""
    load: float
    """Load average over a minute."""


class Launcher(ABC):
    """Starts and watches processes. A context manager; on exit every process has ended.

    Any method raises `ClusterDown` if the launcher itself has failed.
    """

    @abstractmethod
    def start(self, order: Order) -> None:
        """Start a process. Returns once its files are copied, possibly before it is ready.

        Raises `ValueError` if a process of that name runs, and `OSError` for a file that cannot be read.
        """

    @abstractmethod
    def addresses(self, name: str) -> Mapping[str, Address]:
        """The addresses of the process `name`, by transport or interface. Waits until it is ready.

        Raises `ClusterDown` if any process ends unexpectedly before that, or after `START` seconds.
        """

    @abstractmethod
    def signal(self, name: str, number: Signals) -> None:
        """Send a signal to the process `name` and to its children; returns once the signal has been sent.

        If the signal ends the process, its end counts as unexpected.
        """

    @abstractmethod
    def stop(self, names: Sequence[str]) -> None:
        """End the running processes among `names` by SIGTERM, and after some seconds by SIGKILL. Returns when all have
        ended.

        From now on, the end of a process in `names` counts as expected, even if it ended before.
        """

    @abstractmethod
    def kill(self, names: Sequence[str]) -> None:
        """Like `stop`, but by SIGKILL at once."""

    @abstractmethod
    def running(self) -> frozenset[str]:
        """The names of the running processes."""

    @abstractmethod
    def tail(self, name: str) -> str:
        """The last lines in the log of the process `name`, also after its end; empty if there are none."""

    @property
    @abstractmethod
    def hosts(self) -> Mapping[str, Hello]:
        """Host -> its description of itself: versions, processor, memory, load."""

    @abstractmethod
    def clock(self, host: str) -> Clock:
        """The clock of a host, as exactly as the connection to it allows."""

    @abstractmethod
    def secret(self, host: str, name: str, data: bytes) -> str:
        """Write a file to a host, readable for its user only; returns its path there. The launcher's end deletes it."""

    @abstractmethod
    def check(self, patience: float = 0.0) -> None:
        """Raise `ClusterDown`, with the last line of the log, if a process has ended unexpectedly, or does so within
        `patience` seconds.
        """

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(self, *exc: object) -> None: ...
