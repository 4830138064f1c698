"""A Ray actor that holds one portion of every partition, as a node does."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cluster.device import Device
from cluster.execution import Shard
from cluster.model_servers.client import ModelServerClients
from cluster.node_server import load_shards
from cluster.process import tune
from cluster.runtimes.base import Task, execute
from cluster.runtimes.ray_head import FOLDER
from transports.base import Array


class PortionServer:
    """Executes tasks on NumPy arrays."""

    def __init__(
        self, server: int, files: Mapping[str, str], threads: int, malloc: str, omp: str | None, device: Device
    ) -> None:
        """`files`: exports with their SHA-256. `omp`: the client's OMP_NUM_THREADS, which Ray sets to 1 in workers."""
        os.environ.pop("OMP_NUM_THREADS", None)
        if omp is not None:
            os.environ["OMP_NUM_THREADS"] = omp
        device.restrict()
        tune(threads, malloc)
        self._shards = load_shards(Path(os.environ[FOLDER]), files, server, ModelServerClients([]))
        self._tasks: dict[str, tuple[Shard, Task]] = {}

    def process(self) -> int:
        return os.getpid()

    def hold(self, key: str, partition: str, engine: str, task: Task) -> None:
        """Keep a task under `key`."""
        self._tasks[key] = (self._shards[partition, engine], task)

    def run(self, key: str, *arrays: Array) -> Array | tuple[Array, ...]:
        """Run a task on its inputs, in order. Returns its outputs in order, or a single output without a tuple."""
        shard, task = self._tasks[key]
        outputs = tuple(execute(shard, task, dict(zip(task.inputs, arrays, strict=True)), task.outputs))
        return outputs if len(outputs) > 1 else outputs[0]
