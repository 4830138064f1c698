"""The memory and disk that a run will take, as estimated before it takes them: what does not fit is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence

from partitioning.graph import Graph
from partitioning.memory import check_memory, free_memory, require

BASE = 600_000_000
"""Bytes of the client with TensorFlow, and without a model (measured)."""
PROCESS = 130_000_000
"""Bytes of a node without its portion of the model (measured)."""
TRACING = 450_000_000
"""Bytes that TensorFlow takes to make graphs of a model's stages (measured: MobileNetV3Large, frozen)."""
WEIGHT = 4
"""Bytes of a weight."""
LOADING, SERVING = 3, 3
"""Most copies of the weights while the client makes its model, and for each engine (measured; freed memory is kept)."""
WRITTEN = 2
"""Copies of a partition's files on the disk: the client's, and the launcher's for its nodes."""
AMPLE = 5_000_000_000
"""Bytes with which the client can make every model of `keras.applications`."""


def check_start() -> None:
    """Raise `PartitionError` if TensorFlow does not fit."""
    require("TensorFlow", BASE, free_memory(), "raise the limit of the control group, or end other programs")


def check_model(count: Callable[[], int]) -> None:
    """Raise `PartitionError` if a model with `count()` weights does not fit. It is not always called."""
    if (free := free_memory()) < AMPLE:
        require("--model: loading it", LOADING * WEIGHT * count(), free, "give a smaller model")


def check_batch(graph: Graph, batch: int) -> None:
    """Raise `PartitionError` if the tensors of a request with `batch` images do not fit: Keras keeps all of them."""
    each = sum(info.nbytes for info in graph.tensors.values())
    check_memory(f"--batch: a request of {batch} images", batch, each, "images")


def check_engines(nodes: int, engines: Sequence[str], weights: int) -> None:
    """Raise `PartitionError` if so many nodes, and the model in each of `engines` (one entry a copy), do not fit."""
    traced = sum(engine != "eager" for engine in engines)
    needed = nodes * PROCESS + traced * TRACING + SERVING * len(engines) * weights * WEIGHT
    what = f"{nodes} nodes, and the model {len(engines)} times in them and the client,"
    remedy = "give fewer --servers or --replicas, or fewer modes, cuts and engines in one run"
    require(what, needed, free_memory(), remedy)


def check_disk(partitions: int, weights: int) -> None:
    """Raise `PartitionError` if TMPDIR has no room for the files from which nodes load so many partitions."""
    needed, free = WRITTEN * partitions * weights * WEIGHT, shutil.disk_usage(tempfile.gettempdir()).free
    require("TMPDIR: the files of the model", needed, free, "set TMPDIR to a folder on another disk")
