"""Estimates the memory and disk that a run will take, and refuses a run that does not fit.

Sizes were measured as proportional set sizes (PSS) on Linux with TensorFlow 2.21, of runs of MobileNetV3Large, ResNet50
and a model of ten small layers over five servers, batch 1. Estimates are 1.0 to 1.4 times the measured peaks, and up to
1.6 times for the small model, which takes 0.5 to 1.2 GB without Ray. TensorFlow's own model server was not measured.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cluster import runtimes
from experiments.spec import machines
from partitioning.engine_table import is_remote, local_engine
from partitioning.graph import Graph
from partitioning.memory import check_memory, free_memory, require

if TYPE_CHECKING:
    from cluster.partition import Partition
    from experiments.measure.prepare import Prepared

BASE = 600_000_000
"""Bytes of the client with TensorFlow loaded, without a model (measured)."""
WEIGHT = 4
"""Bytes of a weight."""
LOADING = 3
"""Most copies of the weights while the client makes its model (measured)."""
WRITTEN = 2
"""Copies of a partition's files on the disk: the client's, and the launcher's for its nodes."""
AMPLE = 5_000_000_000
"""Bytes that are enough for the client to make any model of `keras.applications`."""

CLIENT, REGISTRY, NODE, MODEL_SERVER = "client", "registry", "node", "model-server"
ACTOR, DAEMONS = "ray-actor", "ray"
TENSORFLOW = "tensorflow-server"
PROCESSES: Mapping[str, int] = {
    CLIENT: 0,  # it runs already
    REGISTRY: 70_000_000,
    NODE: 60_000_000,  # shares the pages of TensorFlow with the fork server, as all processes but Ray's do
    MODEL_SERVER: 60_000_000,
    "socket-server": 60_000_000,
    TENSORFLOW: 120_000_000,
    ACTOR: 310_000_000,  # loads TensorFlow itself
    DAEMONS: 600_000_000,  # the head, its daemons and idle workers
}
"""Kind of a process -> its bytes without stages."""
EXECUTING = 40_000_000
"""Bytes of a process that executes stages, besides their weights."""
COPIES: Mapping[str, int] = {"eager": 2, "graph": 2, "frozen": 11, "tfserving": 1}
"""Engine -> how many copies of its stages' weights it holds. A frozen function has the weights in its graph, in the
graph that TensorFlow optimises, in its definition and in its constants, in some of them several times: the number is
measured."""
OPTIMIZING = 8
"""Further copies of the weights while TensorFlow optimises a frozen function in its first call; only one such call runs
at a time."""
FREEZING = 30_000_000
"""Bytes of a process that freezes stages, for each copy of the model, besides the weights."""


@dataclass(frozen=True)
class Processes:
    """Processes of a kind, which share the stages among them."""

    kind: str
    count: int
    engines: tuple[str, ...] = ()
    """The engine of each copy of the model that they hold together."""

    def bytes(self, weights: int) -> int:
        """The bytes that all these processes take; `weights`: the bytes of the model's weights."""
        copies = sum(COPIES[engine] for engine in self.engines)
        each = PROCESSES[self.kind] + bool(self.engines) * EXECUTING + self.engines.count("frozen") * FREEZING
        return self.count * each + copies * weights


BESIDE: Mapping[str, Processes] = {ACTOR: Processes(DAEMONS, 1), TENSORFLOW: Processes(CLIENT, 1, ("graph",))}
"""Kind -> what else runs with such processes: Ray's own processes, and the client's copy of the graph that TensorFlow
divides."""


def check_start() -> None:
    """Raise `PartitionError` if TensorFlow does not fit into memory."""
    require("TensorFlow", BASE, free_memory(), "raise the limit of the control group, or end other programs")


def check_model(count: Callable[[], int]) -> None:
    """Raise `PartitionError` if a model with `count()` weights does not fit. `count` is called only if needed."""
    if (free := free_memory()) < AMPLE:
        require("--model: loading it", LOADING * WEIGHT * count(), free, "give a smaller model")


def check_batch(graph: Graph, batch: int) -> None:
    """Raise `PartitionError` if the tensors of a request with `batch` images do not fit: Keras keeps all of them."""
    each = sum(info.nbytes for info in graph.tensors.values())
    check_memory(f"--batch: a request of {batch} images", batch, each, "images")


def check_processes(prepared: Prepared, weights: int) -> None:
    """Raise `PartitionError` if the processes that the run starts, with all their copies of the weights, do not fit."""
    parts = list(processes(prepared))
    started = (f"{part.count} x {part.kind}" for part in parts if part.kind != CLIENT)
    what = ", ".join(started) or "the model in the client"
    remedy = "give fewer --servers or --replicas, or fewer --transport, --mode, --cut and --engine in one run"
    require(f"the run ({what})", needed(parts, weights * WEIGHT), free_memory(), remedy)


def needed(parts: Iterable[Processes], weights: int) -> int:
    """The bytes that these processes will take, besides what the client holds already; `weights`: bytes of weights."""
    held = list(parts)
    optimized = any(engine == "frozen" for part in held for engine in part.engines)
    return sum(part.bytes(weights) for part in held) + optimized * OPTIMIZING * weights


def processes(prepared: Prepared) -> Iterator[Processes]:
    """The processes that a run starts on this machine, and the client."""
    experiment, of = prepared.experiment, machines.held(prepared.experiment)
    local = dict.fromkeys(local_engine(cell.engine) for cell in experiment.cells)
    yield Processes(CLIENT, 1, (*local, *_engines(prepared.chosen(remote=False))))

    def here(partitions: Iterable[Partition]) -> int:
        numbers = range(max((partition.servers for partition in partitions), default=0))
        own = machines.here(experiment)
        return sum(not experiment.several_machines or of.get(number) == own for number in numbers)

    if nodes := here(remote := prepared.chosen(remote=True)):
        yield Processes(REGISTRY, 1)
        yield Processes(NODE, experiment.replicas * nodes, experiment.replicas * _engines(remote))
    if servers := here(prepared.served):
        yield Processes(MODEL_SERVER, servers, ("tfserving",) * len(prepared.served))
    yield from _of_runtimes(prepared)


def _of_runtimes(prepared: Prepared) -> Iterator[Processes]:
    """The servers of each library: a set for all deployments that share them, and one for each that has its own."""
    cells = [cell for cell in prepared.partitions if runtimes.is_runtime(cell.transport)]
    kinds = {cell.transport: runtimes.kind(cell.transport) for cell in cells}
    for system in dict.fromkeys(kind.processes for kind in kinds.values()):
        own = [cell for cell in cells if kinds[cell.transport].processes is system]
        partitions = list(prepared.with_engines(own).values())
        servers = max(partition.servers for partition in partitions)
        deployed = {(cell.transport, prepared.partitions[cell], cell.engine) for cell in own}
        alone = [kinds[transport].own_servers for transport, _, _ in deployed]
        sets = sum(alone) + (not all(alone))
        yield Processes(system.title, sets * servers, sets * _engines(partitions))
        if system.title in BESIDE:
            yield BESIDE[system.title]


def _engines(partitions: Iterable[Partition]) -> tuple[str, ...]:
    """The engines with which processes of ours hold the partitions, one for each copy."""
    return tuple(engine for partition in partitions for engine in partition.engines if not is_remote(engine))


def check_disk(partitions: int, weights: int) -> None:
    """Raise `PartitionError` if TMPDIR has no room for the files from which nodes load `partitions` partitions."""
    needed, free = WRITTEN * partitions * weights * WEIGHT, shutil.disk_usage(tempfile.gettempdir()).free
    require("TMPDIR: the files of the model", needed, free, "set TMPDIR to a folder on another disk")
