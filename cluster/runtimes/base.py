"""The contract of a runtime, and what all runtimes share: how a partition becomes tasks.

    system = kind.processes(launcher, setup)    one set of processes for all runtimes of a library
    runtime = kind(system)
    with runtime.deploy(partition, engine) as infer:
        outputs = infer(inputs, timeout)

Rules:
  - A runtime gets the same partition, engine and inputs as nodes get, and the same files with the weights.
  - It carries tensors in the way that its own users would use. No code of the nodes or the transports runs.
  - Its processes are started through a launcher, so that none outlives the client, however the client ends.
"""

from __future__ import annotations

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from cluster import scratch
from cluster.device import PROCESSOR, Device
from cluster.execution import Shard
from cluster.launchers import Launcher
from cluster.manifest import digests
from cluster.partition import Partition, export
from partitioning.plan import Stage
from transports.address import Address
from transports.base import Array

if TYPE_CHECKING:
    from partitioning.program import Program

PATIENCE = 5.0
"""Seconds within which a deployment has to end."""

Infer = Callable[[Mapping[str, Array], float], Mapping[str, Array]]
"""(the model's inputs by tensor name, seconds that the request may take) -> the model's outputs by tensor name.

Raises `DeadlineExceeded`, `ConnectionLost` if a process was lost, and `StageFailed`; after any of these errors the
deployment may be unusable."""


@dataclass(frozen=True)
class Setup:
    """The partitions for the processes of a runtime, and the settings of these processes."""

    programs: Mapping[Partition, Program]
    """Each partition, which names its engines -> the program that it splits."""
    threads: int = 0
    malloc: str = "keep"
    device: Device = PROCESSOR
    """The device of the servers. If it has cards, each server gets one card, in turn."""

    @property
    def servers(self) -> int:
        return max(partition.servers for partition in self.programs)

    @contextlib.contextmanager
    def exported(self) -> Iterator[tuple[dict[str, str], dict[str, Path]]]:
        """Export all partitions: path -> SHA-256, and SHA-256 -> local file. The files are deleted on exit."""
        with scratch.folder() as folder:
            for partition, program in self.programs.items():
                export(program, partition, folder)
            files = digests(folder)
            yield files, {sha256: folder / path for path, sha256 in files.items()}


class System(ABC):
    """The processes of one library. A context manager; on exit the processes have ended."""

    title: ClassVar[str]
    """The name of the processes that execute stages, before their numbers."""

    def __init__(self, launcher: Launcher, setup: Setup) -> None:
        self.launcher = launcher
        self.setup = setup

    @abstractmethod
    def __enter__(self) -> Self:
        """Start every process and wait until all are ready. Raises `ClusterDown` if one ends before that."""

    @abstractmethod
    def __exit__(self, *exc: object) -> None: ...


class Servers(System):
    """A process for each portion, which binds one port."""

    addresses: list[Address]
    """The addresses of the processes, by portion."""

    def __enter__(self) -> Self:
        self._names = [f"{self.title}-{number}" for number in range(self.setup.servers)]
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self._start()
            self.addresses = [next(iter(self.launcher.addresses(name).values())) for name in self._names]
            undo.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._close()

    @abstractmethod
    def _start(self) -> None:
        """Start a process for each name in `_names`."""

    def _close(self) -> None:
        self.launcher.stop(self._names)


class Runtime(ABC):
    """A way in which a library executes a partition. The class attributes describe it, as with a transport."""

    title: ClassVar[str]
    """The runtime's name in tables."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Imported package -> its name for `pip install`. TensorFlow is not listed, since it is always installed."""
    secure: ClassVar[str] = ""
    """The protection of its processes' ports; empty: none."""
    crosses_network: ClassVar[bool] = False
    """Whether the servers may be on several machines."""
    engines: ClassVar[tuple[str, ...]]
    """The engines with which it can execute stages."""
    overlaps: ClassVar[bool] = True
    """Whether several requests may be in flight at a time."""
    own_servers: ClassVar[bool] = False
    """Whether each deployment has processes of its own, which execute stages for no other deployment."""
    processes: ClassVar[type[System]]
    """The class that starts the processes, which all runtimes of the library share."""

    def __init__(self, system: Any) -> None:
        self.system = system

    @abstractmethod
    def deploy(self, partition: Partition, engine: str) -> AbstractContextManager[Infer]:
        """Prepare the processes to execute `partition`, one of the partitions in the setup.

        Raises `PartitionError` for a stage that the runtime cannot execute, and `ConnectionLost`.
        """

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Enter this context for each block of requests. Outside of it, processes that would use cores while they wait
        are suspended, so that they do not slow other measurements down."""
        yield


@dataclass(frozen=True)
class Task:
    """Consecutive stages of one server, which a runtime executes in one call."""

    server: int
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    """Tensors that the stages take and that none of them produces."""
    outputs: tuple[str, ...]
    """Tensors that other tasks take, or that are outputs of the model."""


def execute(shard: Shard, task: Task, given: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
    """The tensors `wanted`, which are in `given` or produced by the stages of `task`. Raises `StageFailed`."""
    values: dict[str, Any] = dict(given)
    for stage in task.stages:
        values.update(zip(stage.outputs, shard.run(stage, values, 0.0), strict=True))
    return [shard.to_array(values[name]) for name in wanted]


def ended(end: Callable[[], None]) -> bool:
    """Call `end`, which may block for ever if a server is lost. Returns whether it ended within `PATIENCE` seconds."""

    def quietly() -> None:
        with contextlib.suppress(Exception):  # a library may raise any exception if a server is lost
            end()

    ending = threading.Thread(target=quietly, daemon=True)
    ending.start()
    ending.join(PATIENCE)
    return not ending.is_alive()


def tasks_of(partition: Partition) -> list[Task]:
    """The stages of a partition as tasks, in an order in which they can run."""
    runs: list[list[Stage]] = []
    for stage in partition.plan.stages:
        if runs and partition.placement[runs[-1][0].name] == partition.placement[stage.name]:
            runs[-1].append(stage)
        else:
            runs.append([stage])
    edges, final = partition.plan.edges, set(partition.plan.outputs)
    tasks = []
    for run in runs:
        names = {stage.name for stage in run}
        made = [name for stage in run for name in stage.outputs]
        taken = dict.fromkeys(name for stage in run for name in stage.inputs if name not in made)
        given = tuple(name for name in made if name in final or not names.issuperset(edges[name].consumers))
        tasks.append(Task(partition.placement[run[0].name], tuple(run), tuple(taken), given))
    return tasks
