"""The model servers of an experiment's cells: which ones run, their start, and what a record says of them."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from cluster.launch import LocalLauncher
from cluster.model_servers import selection
from cluster.model_servers.fleet import Fleet, export
from cluster.pinning import cores, pin
from experiments.spec.experiment import Experiment
from partitioning.errors import PartitionError
from transports.errors import UsageError

if TYPE_CHECKING:
    from experiments.measure.prepare import Prepared

PATIENCE = 60.0
"""Seconds that a program may take to say its version: it may be a container whose image has to come first."""


def chosen(experiment: Experiment) -> selection.Settings | None:
    """The server that the cells' engines call, as this experiment runs it; None where none calls any.

    Raises `UsageError` (`cluster.model_servers.selection.choose`).
    """
    settings = selection.choose(dict.fromkeys(cell.engine for cell in experiment.cells), experiment.option)
    return replace(settings, threads=experiment.threads, malloc=experiment.malloc) if settings else None


def born(experiment: Experiment) -> bool:
    """Whether the servers are ours, which a launcher has to give birth to."""
    settings = chosen(experiment)
    return settings is not None and settings.binary is None


@contextlib.contextmanager
def started(prepared: Prepared, launcher: LocalLauncher | None, notify: Callable[[str], None]) -> Iterator[Fleet]:
    """A server for each of those that share the stages, none of them waited for yet; no server where no cell calls any.

    Raises `UsageError` for a stage that cannot be written as a SavedModel.
    """
    settings = chosen(prepared.experiment)
    if settings is None:
        yield Fleet(selection.Settings(), [], launcher)
        return
    stages = sum(len(partition.plan.stages) for partition in prepared.served)
    notify(f"writing {stages} stages as SavedModels")
    with tempfile.TemporaryDirectory(prefix="splitbench-models-") as folder:
        try:
            configs = export(dict.fromkeys(prepared.served, prepared.program), Path(folder))
        except PartitionError as error:
            raise UsageError(str(error)) from error
        with Fleet(settings, configs, launcher) as fleet:
            yield fleet


def pin_each(fleet: Fleet) -> None:
    """Pin each model server to a core, in turn: to that of the first node that calls it.

    With `--replicas` other nodes call it as well, which may be on other cores.
    """
    for number, pid in enumerate(fleet.pids):
        keeper = psutil.Process(pid)
        for process in (keeper, *keeper.children(recursive=True)):
            pin(process.pid, {cores()[number % len(cores())]})


def record(experiment: Experiment) -> dict[str, Any] | None:
    """Which server ran, without a path of this machine; None where none did."""
    settings = chosen(experiment)
    if settings is None:
        return None
    if settings.binary is None:
        return {
            "kind": settings.kind,
            "version": metadata.version("tensorflow"),
            "tensor_content": settings.tensor_content,
        }
    return {"kind": settings.kind, "version": _version(settings.binary), "program": Path(settings.binary).name}


def _version(binary: str) -> str | None:
    """What the program says of itself."""
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
