"""The model servers of an experiment: one for each server that shares the stages, all of them started at once.

    FOLDER/<partition>/<model>/1/    a stage as a SavedModel (`partitioning.export`)
    FOLDER/server-<i>.config         the models of server i, those of every partition

Ours are born in the launcher, where TensorFlow is loaded already; the real ones are processes of their own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from cluster.launch import HINDSIGHT, LocalLauncher
from cluster.model_servers.selection import Settings
from cluster.partition import Partition
from partitioning.served import config_of, server_config
from transports.address import Address

if TYPE_CHECKING:
    from partitioning.program import Program


def export(partitions: Mapping[Partition, Program], folder: Path) -> list[Path]:
    """Write every stage of `partitions` (each with the program that it cuts) below the empty `folder`.

    Gives, for each server, the file that names its models. Raises `PartitionError` for a stage that cannot be written.
    """
    from partitioning.export import export as write

    held: list[dict[str, Path]] = [{} for _ in range(max(partition.servers for partition in partitions))]
    for partition, program in partitions.items():
        home = folder / partition.name
        served = write(program, partition.plan, home, partition.placement, partition.name)
        for server in range(partition.servers):
            held[server] |= served.held(server, partition.placement, home)
    files = [folder / server_config(server) for server in range(len(held))]
    for file, models in zip(files, held, strict=True):
        file.write_text(config_of(models), encoding="utf-8")
    return files


class _ModelServer(Protocol):
    """A model server that has been started."""

    def wait(self) -> Mapping[str, Address]:
        """Its addresses by interface, once every model in it is available. Raises `ClusterDown`."""
        ...

    def check(self, patience: float) -> None:
        """Raise `ClusterDown` if it has ended, or ends within `patience` seconds."""
        ...

    def close(self) -> None: ...

    @property
    def pid(self) -> int: ...


class Fleet:
    """Model servers, one for each of `configs`. A context manager: entering starts them all and returns at once."""

    def __init__(self, settings: Settings, configs: Sequence[Path], launcher: LocalLauncher | None) -> None:
        """`launcher`: where ours are born."""
        self._settings = settings
        self._configs = configs
        self._launcher = launcher
        self._servers: list[_ModelServer] = []
        self._addresses: list[Mapping[str, Address]] = []

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for config in self._configs:
                self._servers.append(self._start(f"model-{config.stem}", config))
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every server, all at a time. Idempotent."""
        servers, self._servers = self._servers, []
        with ThreadPoolExecutor(max(1, len(servers))) as pool:
            list(pool.map(lambda server: server.close(), servers))

    def wait(self, notify: Callable[[str], None] = lambda text: None) -> tuple[Mapping[str, Address], ...]:
        """The addresses of each server, once all are ready. Raises `ClusterDown`, with a server's last words."""
        for config, server in list(zip(self._configs, self._servers, strict=True))[len(self._addresses) :]:
            self._addresses.append(server.wait())
            notify(f"model-{config.stem} ready ({self._settings.kind})")
        return tuple(self._addresses)

    def check(self, patience: float = HINDSIGHT) -> None:
        """Raise `ClusterDown` if a server has ended, or the first one ends within `patience` seconds: to be asked once
        a request has failed."""
        for number, server in enumerate(self._servers):
            server.check(0.0 if number else patience)

    @property
    def pids(self) -> list[int]:
        """By server, the process that was started: the server, or the keeper whose child it is."""
        return [server.pid for server in self._servers]

    def _start(self, name: str, config: Path) -> _ModelServer:
        settings = replace(self._settings, name=name)
        if settings.binary is None:
            assert self._launcher is not None
            return _Ours(self._launcher, name, config, settings.flags())
        from cluster.model_servers.process import ModelServer  # which imports the stubs

        return ModelServer.of_config(config, settings).start()


class _Ours:
    """A server of ours, born in `launcher`, which knows how it fares."""

    def __init__(self, launcher: LocalLauncher, name: str, config: Path, flags: Sequence[str]) -> None:
        self._launcher = launcher
        self._name = name
        arguments = [f"--model_config_file={config.absolute()}", "--port=0", "--rest_api_port=0", *flags]
        launcher.start(name, arguments, "tfserving.server")

    def wait(self) -> Mapping[str, Address]:
        return self._launcher.addresses(self._name)  # it listens once every model is loaded

    def check(self, patience: float) -> None:
        self._launcher.check(patience)

    def close(self) -> None:
        self._launcher.stop([self._name])

    @property
    def pid(self) -> int:
        return self._launcher.pids[self._name]
