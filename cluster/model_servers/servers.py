"""The model servers of an experiment, one for each server of the partition, started through a launcher."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from cluster.config import ModelServerConfig
from cluster.hosts import HERE, Host
from cluster.launchers.base import Launcher, Order
from cluster.manifest import digests
from cluster.model_servers.selection import Settings
from cluster.partition import Partition
from transports.address import Address

if TYPE_CHECKING:
    from partitioning.program import Program

Models = Mapping[str, Path]
"""Name of a model -> the folder that contains MODEL/VERSION/."""


def export(partitions: Mapping[Partition, Program], folder: Path) -> list[Models]:
    """Write every stage of `partitions`, each with its program, as a SavedModel below the empty `folder`.

    Returns the models of each server. Raises `PartitionError` for a stage that cannot be written.
    """
    from partitioning.export import export as write

    held: list[dict[str, Path]] = [{} for _ in range(max(partition.servers for partition in partitions))]
    for partition, program in partitions.items():
        home = folder / partition.name
        served = write(program, partition.plan, home, partition.placement, partition.name)
        for server in range(partition.servers):
            held[server] |= served.held(server, partition.placement, home)
    return list(held)


class ModelServers:
    """A model server for each item of `held`, called `model-server-<i>`.

    A context manager: entering starts them all and returns once their models are copied; the files may be deleted then.
    On exit every model server has ended.
    """

    def __init__(
        self,
        settings: Settings,
        launcher: Launcher | None,
        held: Sequence[Models],
        cores: Sequence[int] = (),
        hosts: Sequence[Host] = (),
    ) -> None:
        """`launcher`: None only if `held` is empty. `cores`: each server gets one core, in turn; empty: all cores.
        `hosts`: the host of each server, which serves only nodes on the same host; empty: this machine.
        """
        self.names = [f"model-server-{number}" for number in range(len(held))]
        self._settings = settings
        self._launcher = launcher
        self._held = held
        self._cores = cores
        self._hosts = hosts
        self._ready: tuple[Mapping[str, Address], ...] = ()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            for number, models in enumerate(self._held):
                assert self._launcher is not None
                self._launcher.start(self._order(number, models))
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    def addresses(self, notify: Callable[[str], None] = lambda text: None) -> tuple[Mapping[str, Address], ...]:
        """For each server, its addresses by interface. Waits until all models are available. Raises `ClusterDown`."""
        for name in self.names[len(self._ready) :]:
            assert self._launcher is not None
            self._ready += (self._launcher.addresses(name),)
            notify(f"{name} ready ({self._settings.kind})")
        return self._ready

    def _close(self) -> None:
        if self._launcher:
            self._launcher.stop(self.names)

    def _order(self, number: int, models: Models) -> Order:
        settings, name = self._settings, self.names[number]
        host = self._hosts[number] if self._hosts else HERE
        files, contents = {}, {}
        for model, home in models.items():
            for path, sha256 in digests(home / model).items():
                files[f"{model}/{path}"] = sha256
                contents[sha256] = home / model / path
        config = ModelServerConfig(
            cores=(self._cores[number % len(self._cores)],) if self._cores else host.cores,
            cpu=host.cpu,
            memory=host.memory,
            device=settings.device.share(number),
            files=files,
            models=tuple(models),
            binary=settings.binary or "",
            tensor_content=settings.tensor_content,
            threads=host.threads or settings.threads,
            malloc="keep" if settings.malloc == "keep" else "default",
        )
        return Order(name, config, contents, host.name, title=f"{name} ({settings.kind})")
