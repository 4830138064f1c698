"""Every runtime computes what the local model computes, for every shape of model, way to split it and engine."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import tensorflow as tf

from cluster import runtimes
from cluster.partition import Partition
from cluster.runtimes.base import Runtime, tasks_of
from cluster.runtimes.ray_runtimes import RayActors, RayGraph
from tests.cluster.conftest import Case, assert_right
from tests.cluster.runtimes.conftest import SERVERS, TURNS
from tests.faults.common import frozen
from transports.errors import ConnectionLost, DeadlineExceeded

WAYS = [
    (name, model, mode, engine if engine in runtimes.kind(name).engines else runtimes.kind(name).engines[0])
    for name in runtimes.NAMES
    for (model, mode), engine in TURNS.items()
]
"""Every runtime with every shape and split."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "mode", "engine"), WAYS, ids=["-".join(way) for way in WAYS])
def test_a_runtime_answers_as_the_local_model_does(
    name: str,
    model: str,
    mode: str,
    engine: str,
    runtime: Callable[[str], Runtime],
    split: Mapping[tuple[str, str], Partition],
    cases: Mapping[str, Case],
) -> None:
    case = cases[model]
    with runtime(name).deploy(split[model, mode], engine) as infer:
        assert tf.executing_eagerly()
        for inputs, expected in (*zip(case.inputs, case.expected, strict=True), (case.inputs[0], case.expected[0])):
            assert_right(infer(inputs, 30.0), expected)


def servers_of(runtime: Runtime) -> list[psutil.Process]:
    """The processes that execute stages of the runtime, which was deployed before."""
    if isinstance(runtime, RayActors | RayGraph):
        return [psutil.Process(process) for process in runtime.actors.processes]
    title = runtime.processes.title
    below = psutil.Process(runtime.system.launcher.pid).children()
    return [process for process in below if process.name().startswith(title[:15])]


@pytest.mark.slow
@pytest.mark.parametrize("name", runtimes.NAMES)
def test_a_runtime_uses_no_core_between_two_blocks_of_requests(
    name: str,
    runtime: Callable[[str], Runtime],
    split: Mapping[tuple[str, str], Partition],
    cases: Mapping[str, Case],
) -> None:
    """Otherwise it slows down what else is measured: a compiled graph of Ray waits busily."""
    case, made = cases["residual"], runtime(name)
    with made.deploy(split["residual", "submodel"], "frozen") as infer:
        for _ in range(2):
            with made.awake():
                assert_right(infer(case.inputs[0], 30.0), case.expected[0])
            before = used(made)
            time.sleep(0.5)
            assert used(made) - before < 0.2
    with made.deploy(split["residual", "submodel"], "frozen") as infer:
        assert_right(infer(case.inputs[0], 30.0), case.expected[0])


def used(runtime: Runtime) -> float:
    """The seconds of processor time that the servers have used."""
    return sum(sum(server.cpu_times()[:2]) for server in servers_of(runtime))


@pytest.mark.slow
@pytest.mark.parametrize("name", runtimes.NAMES)
def test_every_server_takes_part(
    name: str,
    runtime: Callable[[str], Runtime],
    split: Mapping[tuple[str, str], Partition],
    cases: Mapping[str, Case],
) -> None:
    """A request is not answered in time while one of the servers is stopped."""
    case, made = cases["residual"], runtime(name)
    for number in range(SERVERS):
        with made.deploy(split["residual", "submodel"], "frozen") as infer:
            assert_right(infer(case.inputs[0], 30.0), case.expected[0])
            assert len(servers_of(made)) == SERVERS
            with (
                frozen(servers_of(made)[number].pid),
                pytest.raises(DeadlineExceeded, match=r"did not answer within 0\.5 s"),
            ):
                infer(case.inputs[0], 0.5)


@pytest.mark.parametrize("name", [name for name in runtimes.NAMES if runtimes.kind(name).overlaps])
@pytest.mark.slow
def test_requests_that_overlap_are_not_mixed_up(
    name: str,
    runtime: Callable[[str], Runtime],
    split: Mapping[tuple[str, str], Partition],
    cases: Mapping[str, Case],
) -> None:
    case = cases["fork-join"]
    with (
        runtime(name).deploy(split["fork-join", "layer"], "graph") as infer,
        ThreadPoolExecutor(4) as clients,
    ):
        found = list(clients.map(lambda number: infer(case.inputs[number % 2], 30.0), range(40)))
    for number, outputs in enumerate(found):
        assert_right(outputs, case.expected[number % 2])


def test_tasks_cover_a_plan_once(split: Mapping[tuple[str, str], Partition]) -> None:
    for partition in split.values():
        tasks = tasks_of(partition)
        assert [stage for task in tasks for stage in task.stages] == list(partition.plan.stages)
        ready = set(partition.plan.inputs)
        for before, task in zip([None, *tasks], tasks, strict=False):
            assert before is None or before.server != task.server
            assert all(partition.placement[stage.name] == task.server for stage in task.stages)
            assert ready.issuperset(task.inputs)
            ready.update(task.outputs)
        assert ready.issuperset(partition.plan.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("names", [("ray", "ray-graph"), ("tf-runtime",), ("sockets",)])
def test_a_lost_server_is_an_error_and_holds_nothing_up(
    names: Sequence[str],
    runtime: Callable[[str], Runtime],
    split: Mapping[tuple[str, str], Partition],
    cases: Mapping[str, Case],
) -> None:
    """The last test, since the servers that it kills are not started again."""
    case, made = cases["residual"], [runtime(name) for name in names]
    with contextlib.ExitStack() as stack:
        deployed = [stack.enter_context(each.deploy(split["residual", "submodel"], "frozen")) for each in made]
        for infer in deployed:
            assert_right(infer(case.inputs[0], 30.0), case.expected[0])
        for each in made:
            servers_of(each)[-1].kill()
        for infer in deployed:
            with pytest.raises(ConnectionLost, match="lost a server"):
                infer(case.inputs[0], 30.0)
    if "ray" in names:
        with pytest.raises(ConnectionLost, match="lost a server"), made[0].deploy(split["residual", "layer"], "eager"):
            pass
