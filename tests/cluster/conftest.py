"""One cluster of real processes, which all tests of `cluster` share. It holds every model in every partition."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pytest

import transports
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.in_process import InProcessCluster
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher
from cluster.partition import Partition, export
from cluster.result_receiver import ResultReceiver
from cluster.workers import workers_needed
from partitioning.placement import PLACEMENTS
from partitioning.program import Program, read
from partitioning.strategies import make_plan
from tests.faults.common import REMOTE
from tests.kinds import KINDS
from tests.models import SHAPES, fixed_batch, flat_outputs, inputs_for, multi_channel
from transports.base import Array, Transport

SERVERS = 4
SPLITS = [("whole", "contiguous"), *((mode, place) for mode in ("layer", "submodel") for place in PLACEMENTS)]
"""Mode and placement. With a single stage all placements are equal."""
ONCE: Mapping[str, Callable[[], keras.Model]] = {
    **{name: KINDS[name] for name in ("masked-recurrent", "dictionaries", "integers", "own-layer")},
    "multi-channel": multi_channel,
    "fixed-batch": fixed_batch,
}
"""More models. Each is tested with every transport and flow in one split: splits do not depend on these kinds."""
MODELS = {**SHAPES, **ONCE}
COMPILED = ("submodel", "contiguous")
"""The only split with the engine `frozen`. The others are `eager`, since engines do not depend on placements."""


@dataclass(frozen=True)
class Case:
    """The program of a model, two different inputs, and the model's outputs for them."""

    program: Program
    inputs: tuple[Mapping[str, Array], ...]
    expected: tuple[Mapping[str, Array], ...]


def _case(name: str) -> Case:
    model = MODELS[name]()
    program = read(model, ["tests.kinds"] if name in KINDS else [])
    draws = [inputs_for(model, batch=2, seed=seed) for seed in (0, 1)]
    return Case(
        program,
        tuple(dict(zip(program.graph.inputs, draw, strict=True)) for draw in draws),
        tuple(dict(zip(program.graph.outputs, flat_outputs(model, draw), strict=True)) for draw in draws),
    )


@pytest.fixture(scope="session")
def cases() -> Mapping[str, Case]:
    return {name: _case(name) for name in MODELS}


def splits_of(model: str) -> list[tuple[str, str]]:
    """All splits, or the one in which a model of `ONCE` is tested."""
    return SPLITS if model in SHAPES else [SPLITS[1 + list(ONCE).index(model) % (len(SPLITS) - 1)]]


@pytest.fixture(scope="session")
def partitions(cases: Mapping[str, Case]) -> Mapping[str, Partition]:
    """Every model in all its splits, by `model.mode.placement`."""
    made = {}
    for name, case in cases.items():
        for mode, placement in splits_of(name):
            plan = make_plan(case.program.graph, mode, "equal", SERVERS)
            placed = PLACEMENTS[placement](plan, min(SERVERS, len(plan.stages)))
            engine = "frozen" if (mode, placement) == COMPILED else "eager"
            made[f"{name}.{mode}.{placement}"] = Partition(f"{name}.{mode}.{placement}", plan, placed, (engine,))
    return made


@dataclass(frozen=True)
class Running:
    """A running cluster, and a client with its transports."""

    cluster: Cluster
    transports: Mapping[str, Transport]
    client: Client


@pytest.fixture(scope="session")
def exports(
    cases: Mapping[str, Case], partitions: Mapping[str, Partition], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for name, partition in partitions.items():
        export(cases[name.partition(".")[0]].program, partition, folder)
    return folder


@pytest.fixture(scope="session")
def running(cases: Mapping[str, Case], partitions: Mapping[str, Partition], exports: Path) -> Iterator[Running]:
    workers = 4 * max(workers_needed(partition, local_calls=False, send="tensor") for partition in partitions.values())
    by_name = {name: transports.make(name) for name in transports.NAMES}
    settings = Settings(transports=REMOTE, servers=SERVERS, exports=exports, workers=workers, threads=1)
    with contextlib.ExitStack() as stack:
        launcher = stack.enter_context(LocalLauncher())
        cluster = stack.enter_context(Cluster(settings, launcher))
        dispatcher = stack.enter_context(contextlib.closing(Dispatcher(by_name, cluster.registries)))
        receiver = stack.enter_context(contextlib.closing(ResultReceiver(by_name)))
        yield Running(cluster, by_name, Client(dispatcher, receiver))


@pytest.fixture(scope="session")
def direct(cases: Mapping[str, Case], partitions: Mapping[str, Partition]) -> Iterator[Callable[[str], Client]]:
    """Clients of in-process clusters, by model."""
    transport = transports.make("none")
    with contextlib.ExitStack() as stack:

        def client(model: str) -> Client:
            own = [partition for name, partition in partitions.items() if name.startswith(f"{model}.")]
            local = stack.enter_context(InProcessCluster(own, cases[model].program, transport))
            dispatcher = stack.enter_context(contextlib.closing(Dispatcher({"none": transport}, local.registries)))
            return Client(dispatcher, stack.enter_context(contextlib.closing(ResultReceiver({"none": transport}))))

        made = {model: client(model) for model in cases}
        yield made.__getitem__


def assert_right(found: Mapping[str, Array], expected: Mapping[str, Array]) -> None:
    assert set(found) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-5)
