"""`python -m tests.cluster.model_servers.bench_stages FOLDER`: the time that model servers add to a plan's stages.

FOLDER is an exported plan. Its stages run one after the other, at batch 1: in this process, in one model server (which
answers with lists of values, with `tensor_content`, and over REST), and in a model server for each stage. The server is
the real one if it is on PATH, except for `tensor_content`, which only this project's server has. Prints milliseconds of
a request through all stages.
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

from cluster.launchers import LocalLauncher
from cluster.model_servers.client import ServedStage
from cluster.model_servers.selection import OURS, Settings, find_binary
from cluster.model_servers.servers import ModelServers
from partitioning.served import CONFIG, Served
from tfserving import Predictor, models
from tfserving import config as configuration
from tfserving.grpc_client import Client
from tfserving.rest_client import RestClient
from transports.address import Address

Stages = Mapping[str, Callable[[Sequence[Any]], list[Any]]]
ROUNDS, RUNS, WARMUP = 10, 10, 2


def here(served: Served, folder: Path) -> Stages:
    loaded = models.load(configuration.read_config(folder / CONFIG))

    def stage(name: str, inputs: Sequence[str], outputs: Sequence[str]) -> Callable[[Sequence[Any]], list[Any]]:
        signature = loaded.versions[served.models[name]][1].signature("")
        taken, given = ([served.keys[tensor] for tensor in tensors] for tensors in (inputs, outputs))
        return lambda arrays: [*signature.run(dict(zip(taken, arrays, strict=True)), given).values()]

    return {each.name: stage(each.name, each.inputs, each.outputs) for each in served.plan.stages}


def measure(served: Served, ways: Mapping[str, Stages]) -> None:
    """Time a request in each way, in rounds, so that a disturbance of the machine affects all ways."""
    draw = np.random.default_rng(0)
    edges = [served.plan.edges[name] for name in served.plan.inputs]
    given = {edge.name: draw.random([extent or 1 for extent in edge.shape]).astype(edge.dtype) for edge in edges}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, stages in ways.items():
            times = [request(served, stages, given) for _ in range(WARMUP + RUNS)]
            seconds[way] += times[WARMUP:]
    for way, times in seconds.items():
        print(f"{way:48} median {1e3 * statistics.median(times):8.2f}   least {1e3 * min(times):8.2f}")


def request(served: Served, stages: Stages, given: Mapping[str, Any]) -> float:
    tensors = dict(given)
    start = time.perf_counter()
    for stage in served.plan.stages:
        results = stages[stage.name]([tensors[name] for name in stage.inputs])
        tensors.update(zip(stage.outputs, results, strict=True))
    return time.perf_counter() - start


def called(client: Predictor, served: Served) -> Stages:
    return {stage.name: ServedStage(client, served, stage) for stage in served.plan.stages}


def main(folder: Path) -> None:
    served, settings = Served.read(folder), Settings(find_binary())
    kind = settings.kind
    ways = {"in this process": here(served, folder)}
    one = [dict.fromkeys(served.models.values(), folder)]
    with contextlib.ExitStack() as stack:

        def start(chosen: Settings, held: Sequence[Mapping[str, Path]]) -> Sequence[Mapping[str, Address]]:
            launcher = stack.enter_context(LocalLauncher())
            return stack.enter_context(ModelServers(chosen, launcher, held)).addresses()

        (server,), (content,) = start(settings, one), start(Settings(tensor_content=True), one)
        ways[f"{kind}, gRPC"] = called(stack.enter_context(Client(server["grpc"])), served)
        ways[f"{OURS}, gRPC, tensor_content"] = called(stack.enter_context(Client(content["grpc"])), served)
        ways[f"{kind}, REST"] = called(stack.enter_context(RestClient(server["rest"])), served)
        ways[f"{kind}, gRPC, a server for each stage"] = apart = {}
        own = start(settings, [{served.models[stage.name]: folder} for stage in served.plan.stages])
        for stage, found in zip(served.plan.stages, own, strict=True):
            apart[stage.name] = ServedStage(stack.enter_context(Client(found["grpc"])), served, stage)
        measure(served, ways)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
