"""The processes of every runtime whose library is installed, shared by the tests of a module."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from cluster import runtimes
from cluster.launchers import LocalLauncher
from cluster.partition import Partition
from cluster.runtimes.base import Runtime, Setup, System
from cluster.runtimes.ray_runtimes import Ray
from partitioning.engine_table import ENGINES, is_remote
from partitioning.placement import PLACEMENTS
from partitioning.strategies import make_plan
from tests.cluster.conftest import Case
from tests.models import SHAPES
from tests.running import assert_gone, below
from transports.errors import UsageError

SERVERS = 2
LOCAL_ENGINES = [name for name in ENGINES if not is_remote(name)]
SHARED = Path("/dev/shm")
SPLITS = [("whole", "contiguous"), ("submodel", "contiguous"), ("layer", "block-cyclic")]
"""Mode and placement."""
TURNS = {
    (model, mode): LOCAL_ENGINES[(place + place // len(SPLITS)) % len(LOCAL_ENGINES)]
    for place, (model, mode) in enumerate((model, mode) for model in SHAPES for mode, _ in SPLITS)
}
"""Model and mode -> the engine that it runs with: they take turns, since servers load every engine at their start."""
BESIDE = {("residual", "submodel"): "frozen", ("fork-join", "layer"): "graph", ("residual", "layer"): "eager"}
"""Model and mode -> the engine that one test needs besides."""


def home_of(raylet: psutil.Process) -> Path:
    """The folder with all files of a Ray cluster."""
    sockets = next(word for word in raylet.cmdline() if word.startswith("--raylet_socket_name="))
    return Path(sockets.partition("=")[2]).parents[2]


class Left:
    """What a client and its runtimes have made by now; `before`: processes of other tests, which stay."""

    def __init__(self, client: int, before: Collection[psutil.Process] = ()) -> None:
        names = below(client)
        self.processes = [process for process in names if process not in before]
        self.raylet = next(process for process in self.processes if names[process] == "raylet")
        self.folder = home_of(self.raylet)
        assert self.folder.is_dir()
        assert any(names[process].startswith("ray::PortionServer") for process in self.processes)

    def semaphores(self) -> list[Path]:
        return list(SHARED.glob(f"sem.*{self.raylet.pid}-*"))

    def assert_gone(self) -> None:
        assert_gone(self.processes)
        assert not self.folder.exists()
        assert not self.semaphores()


def usable(name: str) -> type[Runtime]:
    """The runtime called `name`; the test is skipped if its library is not installed."""
    try:
        return runtimes.load(name)
    except UsageError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def split(cases: Mapping[str, Case]) -> Mapping[tuple[str, str], Partition]:
    """Partitions by model and mode."""
    made = {}
    for model in SHAPES:
        for mode, placement in SPLITS:
            plan = make_plan(cases[model].program.graph, mode, "equal", 4)
            placed = PLACEMENTS[placement](plan, min(SERVERS, len(plan.stages)))
            engines = dict.fromkeys([TURNS[model, mode], BESIDE.get((model, mode), TURNS[model, mode])])
            made[model, mode] = Partition(f"{model}.{mode}", plan, placed, tuple(engines))
    return made


@pytest.fixture(scope="module")
def runtime(
    cases: Mapping[str, Case], split: Mapping[tuple[str, str], Partition]
) -> Iterator[Callable[[str], Runtime]]:
    """Runtimes by name. Those of one library share its processes."""
    before = psutil.Process().children(recursive=True)
    setup = Setup({partition: cases[model].program for (model, _), partition in split.items()}, threads=1)
    systems: dict[type[System], System] = {}
    with contextlib.ExitStack() as stack:
        launcher = stack.enter_context(LocalLauncher())

        def started(name: str) -> Runtime:
            kind = usable(name)
            if kind.processes not in systems:
                systems[kind.processes] = stack.enter_context(kind.processes(launcher, setup))
            return kind(systems[kind.processes])

        yield started
        left = Left(os.getpid(), before) if Ray in systems else None
    if left:
        left.assert_gone()
