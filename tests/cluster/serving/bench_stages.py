"""`python -m tests.cluster.serving.bench_stages FOLDER`: what a model server adds to the stages of an exported plan.

The same SavedModels run one after the other, batch 1: in this process, in one server, and in a server for each stage.
The server is the real one where PATH has it. Milliseconds of one request through all stages.
"""

from __future__ import annotations

import contextlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cluster.serving import configuration, models
from cluster.serving.choice import Settings, find_binary
from cluster.serving.client import Client
from cluster.serving.process import ModelServer
from cluster.serving.stages import ServedStage
from partitioning.served import CONFIG, Served

Stages = Mapping[str, Callable[[Sequence[Any]], list[Any]]]
RUNS, WARMUP = 100, 10


def here(served: Served, folder: Path) -> Stages:
    loaded = models.load(configuration.read_config(folder / CONFIG))

    def stage(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[Sequence[Any]], list[Any]]:
        signature = loaded.versions[served.models[name]][1].signature("")
        taken, given = ([served.keys[tensor] for tensor in tensors] for tensors in (inputs, outputs))
        return lambda arrays: [*signature.run(dict(zip(taken, arrays, strict=True)), given).values()]

    return {each.name: stage(each.name, each.inputs, each.outputs) for each in served.plan.stages}


def measure(what: str, served: Served, stages: Stages) -> None:
    draw = np.random.default_rng(0)
    wires = [served.plan.wires[name] for name in served.plan.inputs]
    given = {wire.name: draw.random([extent or 1 for extent in wire.shape]).astype(wire.dtype) for wire in wires}
    seconds = []
    for _ in range(WARMUP + RUNS):
        tensors = dict(given)
        start = time.perf_counter()
        for stage in served.plan.stages:
            results = stages[stage.name]([tensors[name] for name in stage.inputs])
            tensors.update(zip(stage.outputs, results, strict=True))
        seconds.append(time.perf_counter() - start)
    middle, least = (1e3 * of(seconds[WARMUP:]) for of in (statistics.median, min))
    print(f"{what:32} median {middle:8.2f}   least {least:8.2f}")


def main(folder: Path) -> None:
    served, settings = Served.read(folder), Settings(find_binary())
    plan = served.plan.stages
    measure("in this process", served, here(served, folder))
    with ModelServer.of_config(folder / CONFIG, settings) as server, Client(server.grpc) as client:
        measure(f"one server, {server.kind}", served, {s.name: ServedStage(client, served, s) for s in plan})
    with contextlib.ExitStack() as stack:
        stages = {}
        for stage in plan:
            server = stack.enter_context(ModelServer.of_stage(folder, served.models[stage.name], settings))
            stages[stage.name] = ServedStage(stack.enter_context(Client(server.grpc)), served, stage)
        measure(f"{len(plan)} servers, {server.kind}", served, stages)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
