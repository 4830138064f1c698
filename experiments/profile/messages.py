"""Measures the cost of messages over each transport: requests with a cut's content to a node that computes very little.

Client, dispatcher and node are the same as in a run, in two processes of this machine. The seconds of a message are
those of the request less those of the stage, so they include all costs of a message at both ends.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import transports
from cluster import scratch
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.launch import Cluster, Settings
from cluster.launchers import Launcher
from cluster.partition import Partition, export
from cluster.request import Route
from cluster.result_receiver import ResultReceiver
from experiments.measure import wire
from experiments.spec.experiment import Experiment
from experiments.store.environment import UNCOUNTED
from partitioning.strategies import make_plan
from transports.base import Array

WORKERS = 4
LARGE = 1_000_000
"""Bytes of the largest content of `reference`."""
WARM_UPS = 3
"""Requests with each content before the first timed one."""


@dataclass
class Times:
    """The requests over one transport with one content."""

    seconds: list[float] = field(default_factory=list)
    wire_bytes: list[float] = field(default_factory=list)


def measure(
    experiment: Experiment,
    launcher: Launcher,
    contents: Mapping[int, Array],
    rounds: int,
    notify: Callable[[str], None],
) -> dict[tuple[str, int], Times]:
    """(transport, number of a content) -> the times of its requests. `contents`: float32 [1, any]. No process is left
    running."""
    names = [cell.transport for cell in experiment.cells if cell.mode == "whole"]
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(scratch.folder())
        partition = _exported(folder)
        options = dict(experiment.options)
        settings = Settings(tuple(names), 1, folder, WORKERS, threads=experiment.threads or 1, options=options)
        cluster = stack.enter_context(Cluster(settings, launcher))
        made = {name: transports.make(name, options) for name in names}
        dispatcher = stack.enter_context(contextlib.closing(Dispatcher(made, cluster.registries)))
        receiver = stack.enter_context(contextlib.closing(ResultReceiver(made)))
        client = _NodeClient(Client(dispatcher, receiver), partition, experiment.timeout)
        found = {(name, position): Times() for name in names for position in contents}
        notify(f"messages: {len(contents)} contents over {', '.join(names)}")
        for number, (name, position) in enumerate(_turns(list(found), rounds, experiment.seed)):
            seconds, crossed = client.request(name, contents[position])
            if number >= WARM_UPS * len(found):
                found[name, position].seconds.append(seconds)
                found[name, position].wire_bytes.append(crossed)
        return found


def _turns(pairs: list[tuple[str, int]], rounds: int, seed: int) -> Iterator[tuple[str, int]]:
    rng = random.Random(seed)
    for _ in range(WARM_UPS + rounds):
        rng.shuffle(pairs)
        yield from pairs


def _exported(folder: Path) -> Partition:
    """Export a model that returns the largest of its input values."""
    import keras

    from partitioning.program import read

    given = keras.Input((None,), name="content")
    program = read(keras.Model(given, keras.ops.max(given, axis=1, keepdims=True)))
    plan = make_plan(program.graph, "whole")
    partition = Partition("content", plan, {stage.name: 0 for stage in plan.stages}, ("frozen",))
    export(program, partition, folder)
    return partition


@dataclass(frozen=True)
class _NodeClient:
    client: Client
    partition: Partition
    timeout: float

    def request(self, transport: str, content: Array) -> tuple[float, float]:
        """(seconds of the request less those of the stage, bytes on the wire: NaN if unknown)."""
        route = Route(self.partition.name, "frozen", transport)
        before = wire.sent()
        begun = time.perf_counter()
        answer = self.client.infer(self.partition, route, {"content": content}, self.timeout)
        seconds = time.perf_counter() - begun
        crossed = np.nan if transport in UNCOUNTED else wire.sent() - before
        return max(0.0, seconds - answer.stats.compute), float(crossed)


def reference(given: Array) -> dict[int, Array]:
    """Contents of no cut, under negative numbers: one value, and the input repeated to `LARGE` bytes.

    Without these contents, the tensors of a small model would not show the cost of a byte.
    """
    return {-1: given[:, :1], -2: np.resize(given, (1, LARGE // given.itemsize))}


def content_of(arrays: Sequence[Array]) -> Array:
    """The bytes of the arrays as one float32 array [1, any]."""
    raw = b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)
    return np.frombuffer(raw + bytes(-len(raw) % 4), np.float32).reshape(1, -1)
