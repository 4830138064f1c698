"""The model servers of an experiment: the program that runs, its record, and its processes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from cluster import scratch
from cluster.hosts import Host, by_name
from cluster.launchers import Launcher
from cluster.model_servers import selection
from cluster.model_servers.servers import ModelServers, export
from cluster.partition import Partition
from cluster.pinning import cores
from experiments.spec import machines
from experiments.spec.experiment import Experiment
from partitioning.errors import PartitionError
from transports.errors import UsageError

if TYPE_CHECKING:
    from partitioning.program import Program

PATIENCE = 60.0
"""Seconds that a program may take to print its version: it may run a container whose image is downloaded first."""


@dataclass(frozen=True)
class Serving:
    """The model servers that the cells of an experiment call."""

    settings: selection.Settings | None
    """None if no cell calls model servers."""
    cores: tuple[int, ...] = ()
    """Cores to which the servers are pinned in turn, each to the core of the first node that calls it; empty: servers
    are not pinned.

    With `--replicas`, nodes on other cores call the server too."""
    hosts: tuple[Host, ...] = ()
    """The host of each server; empty: this machine."""

    @classmethod
    def of(cls, experiment: Experiment) -> Self:
        """Raises `UsageError` (`cluster.model_servers.selection.choose`)."""
        settings = selection.choose(dict.fromkeys(cell.engine for cell in experiment.cells), experiment.option)
        if settings is None:
            return cls(None)
        settings = replace(settings, threads=experiment.threads, malloc=experiment.malloc, device=experiment.hardware)
        of, held = by_name(machines.hosts_of(experiment)), machines.held(experiment)
        hosts = tuple(of[held[server]] for server in sorted(held))
        return cls(settings, tuple(cores()) if experiment.pin == "on" else (), hosts)

    def record(self) -> dict[str, Any] | None:
        """The model server that runs, without a path of this machine; None without one."""
        if self.settings is None:
            return None
        if binary := self.settings.binary:
            return {"kind": self.settings.kind, "version": _version(binary), "program": Path(binary).name}
        return {
            "kind": self.settings.kind,
            "version": metadata.version("tensorflow"),
            "tensor_content": self.settings.tensor_content,
        }

    @contextlib.contextmanager
    def started(
        self,
        partitions: Collection[Partition],
        program: Program,
        launcher: Launcher | None,
        notify: Callable[[str], None],
    ) -> Iterator[ModelServers]:
        """Start a model server for each server that shares the stages of `partitions`; do not wait until it is ready.

        Raises `UsageError` for a stage that cannot be written as a SavedModel.
        """
        with contextlib.ExitStack() as stack:
            if self.settings is None:
                servers = ModelServers(selection.Settings(), None, [])
            else:
                stages = sum(len(partition.plan.stages) for partition in partitions)
                notify(f"writing {stages} stages as SavedModels")
                with scratch.folder() as folder:
                    try:
                        held = export(dict.fromkeys(partitions, program), folder)
                    except PartitionError as error:
                        raise UsageError(str(error)) from error
                    servers = stack.enter_context(ModelServers(self.settings, launcher, held, self.cores, self.hosts))
            yield servers


def _version(binary: str) -> str | None:
    """The version that the program prints; None if it prints none."""
    try:
        done = subprocess.run(
            [binary, "--version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return ", ".join(done.stdout.split("\n")).strip(", ") or None
