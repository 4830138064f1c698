"""The memory and disk that a run will take, as estimated before it takes them: what does not fit is refused."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence

import psutil

from cluster import control_groups
from partitioning.graph import Graph
from transports.errors import UsageError

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


def free_memory() -> int:
    """Bytes that this process may still take: of the machine, or of its control group if that has fewer."""
    available, granted = psutil.virtual_memory().available, control_groups.read().free
    return available if granted is None else min(available, granted)


def check_memory(what: str, count: float, each: int, unit: str) -> None:
    """Raise `UsageError`, with the largest valid count, if `count` times `each` bytes are not free."""
    free = free_memory()
    _require(what, count * each, free, f"give at most {free // each} {unit}")


def check_start() -> None:
    """Raise `UsageError` if TensorFlow does not fit."""
    _require("TensorFlow", BASE, free_memory(), "raise the limit of the control group, or end other programs")


def check_model(count: Callable[[], int]) -> None:
    """Raise `UsageError` if a model with as many weights as `count` returns does not fit. It is not always called."""
    if (free := free_memory()) < AMPLE:
        _require("--model: loading it", LOADING * WEIGHT * count(), free, "give a smaller model")


def check_batch(graph: Graph, batch: int) -> None:
    """Raise `UsageError` if the tensors of a request with `batch` images do not fit: Keras keeps all of them."""
    each = sum(info.nbytes for info in graph.tensors.values())
    check_memory(f"--batch: a request of {batch} images", batch, each, "images")


def check_engines(nodes: int, engines: Sequence[str], weights: int) -> None:
    """Raise `UsageError` if so many nodes, and the whole model in each of `engines` (one entry a copy), do not fit."""
    traced = sum(engine != "eager" for engine in engines)
    needed = nodes * PROCESS + traced * TRACING + SERVING * len(engines) * weights * WEIGHT
    what = f"{nodes} nodes, and the model {len(engines)} times in them and the client,"
    remedy = "give fewer --servers or --replicas, or fewer modes, cuts and engines in one run"
    _require(what, needed, free_memory(), remedy)


def check_disk(partitions: int, weights: int) -> None:
    """Raise `UsageError` if TMPDIR has no room for the files from which nodes load so many partitions."""
    needed, free = WRITTEN * partitions * weights * WEIGHT, shutil.disk_usage(tempfile.gettempdir()).free
    _require("TMPDIR: the files of the model", needed, free, "set TMPDIR to a folder on another disk")


def _require(what: str, needed: float, free: int, remedy: str) -> None:
    if needed > free:
        raise UsageError(f"{what} may take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free; {remedy}")
