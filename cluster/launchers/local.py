"""The launcher for this machine."""

from __future__ import annotations

import contextlib
from typing import Self

from cluster import scratch
from cluster.launchers import fork_server
from cluster.launchers.pipe import Way
from cluster.launchers.piped import PipedLauncher
from transports.process import command


class LocalLauncher(PipedLauncher):
    """Forks processes that have TensorFlow loaded. Every host name means this machine."""

    def __init__(self) -> None:
        self._folder = contextlib.ExitStack()
        super().__init__({})

    def __enter__(self) -> Self:
        folder = self._folder.enter_context(scratch.folder())
        self._add("", Way(command(fork_server.__name__, str(folder))))
        return super().__enter__()

    def __exit__(self, *exc: object) -> None:
        super().__exit__(*exc)
        self._folder.close()

    @property
    def pid(self) -> int:
        """The process id of the fork server, the parent of all processes."""
        return self.pids[""]
