"""The contract of a runtime, and what all runtimes share: how a partition becomes tasks.

    system = kind.processes(launcher, setup)    one set of processes for all runtimes of a library
    runtime = kind(system)
    with runtime.deploy(partition, engine) as infer:
        outputs = infer(inputs, timeout)

Rules:
  - A runtime gets the same partition, engine and inputs as nodes get, and the same files with the weights.
  - It carries tensors as its own users would have them carried. No code of the nodes or the transports runs.
  - Its processes are started through a launcher, so that none outlives the client, however that ends.
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
"""Seconds in which a deployment has to end."""

Infer = Callable[[Mapping[str, Array], float], Mapping[str, Array]]
"""The model's inputs by tensor name, and the seconds that the request may take -> the model's outputs by tensor name.

Raises `DeadlineExceeded`, `ConnectionLost` if a process was lost, and `StageFailed`; after each of them the deployment
may be unusable."""


@dataclass(frozen=True)
class Setup:
    """What the processes of a runtime hold, and how they run."""

    programs: Mapping[Partition, Program]
    """Each partition, with the engines that it runs with, and the program that it splits."""
    threads: int = 0
    malloc: str = "keep"
    device: Device = PROCESSOR
    """The servers take one of its cards each, in turn."""

    @property
    def servers(self) -> int:
        return max(partition.servers for partition in self.programs)

    @contextlib.contextmanager
    def exported(self) -> Iterator[tuple[dict[str, str], dict[str, Path]]]:
        """Path -> SHA-256 and SHA-256 -> local file, of the exports of all partitions; on exit they are deleted."""
        with scratch.folder() as folder:
            for partition, program in self.programs.items():
                export(program, partition, folder)
            files = digests(folder)
            yield files, {sha256: folder / path for path, sha256 in files.items()}


class System(ABC):
    """The processes of one library. A context manager; on exit they are gone."""

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
    """Where they listen."""

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
        """Start a process for each of `_names`."""

    def _close(self) -> None:
        self.launcher.stop(self._names)


class Runtime(ABC):
    """A way in which a library executes a partition. The class attributes say what it is, as those of a transport."""

    title: ClassVar[str]
    """How tables name it."""
    libraries: ClassVar[Mapping[str, str]] = {}
    """Imported package -> what `pip install` takes for it. TensorFlow is always there."""
    secure: ClassVar[str] = ""
    """What protects the ports of its processes; empty: nothing does."""
    crosses_network: ClassVar[bool] = False
    """Whether the servers may be on several machines."""
    engines: ClassVar[tuple[str, ...]]
    """The engines that it can execute stages with."""
    overlaps: ClassVar[bool] = True
    """Whether several requests may be in flight at a time."""
    own_servers: ClassVar[bool] = False
    """Whether each deployment has processes of its own, which execute stages for no other."""
    processes: ClassVar[type[System]]
    """What starts the processes that all runtimes of its library share."""

    def __init__(self, system: Any) -> None:
        self.system = system

    @abstractmethod
    def deploy(self, partition: Partition, engine: str) -> AbstractContextManager[Infer]:
        """Make ready what executes `partition`, one of the setup's.

        Raises `PartitionError` for a stage that the runtime cannot execute, and `ConnectionLost`.
        """

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """To be entered for each block of requests. Between two blocks, processes that would use cores while they wait
        are suspended, so that they do not slow down what else is measured."""
        yield


@dataclass(frozen=True)
class Task:
    """Consecutive stages of one server, which a runtime executes in one call."""

    server: int
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    """Tensors that the stages take from outside of themselves."""
    outputs: tuple[str, ...]
    """Tensors that other tasks take, or that are outputs of the model."""


def execute(shard: Shard, task: Task, given: Mapping[str, Array], wanted: Sequence[str]) -> list[Array]:
    """The tensors `wanted`, which are among `given` or made by the stages of `task`. Raises `StageFailed`."""
    values: dict[str, Any] = dict(given)
    for stage in task.stages:
        values |= shard.run(stage, values, 0.0)
    return [shard.to_array(values[name]) for name in wanted]


def ended(end: Callable[[], None]) -> bool:
    """Call `end`, which may block for good if a server is lost; whether it returned within `PATIENCE` seconds."""

    def quietly() -> None:
        with contextlib.suppress(Exception):  # a library may raise anything for a server that is lost
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
