"""Nodes whose stages run in model servers: every transport, codec and flow gives the outputs of the local model.

The model servers run the program that `TFS_BINARY` names, or this project's. Together they hold every model.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import transports
from cluster.client import Client
from cluster.dispatcher import Dispatcher
from cluster.errors import ClusterDown
from cluster.flows import FLOWS
from cluster.in_process import InProcessCluster
from cluster.launch import Cluster
from cluster.launch import Settings as ClusterSettings
from cluster.launchers import HINDSIGHT, LocalLauncher
from cluster.model_servers.client import ModelServerClients
from cluster.model_servers.selection import INTERFACES, Settings
from cluster.model_servers.servers import ModelServers, export
from cluster.partition import Partition
from cluster.partition import export as export_nodes
from cluster.request import Route
from cluster.result_receiver import ResultReceiver
from partitioning.placement import PLACEMENTS
from partitioning.strategies import make_plan
from tests.cluster.conftest import SERVERS, Case, assert_right
from tests.faults.common import REMOTE
from tests.models import SHAPES
from tests.tfserving.conftest import BINARY
from transports.address import Address
from transports.errors import ConnectError, ConnectionLost, DeadlineExceeded, UsageError

pytestmark = pytest.mark.slow

WAYS = [(name, codec) for name in transports.NAMES for codec in transports.load(name).codecs]
SPLITS = [*((shape, "submodel", "contiguous") for shape in SHAPES), ("fork-join", "layer", "round-robin")]
"""Shape of the graph, mode, placement."""


@pytest.fixture(scope="module")
def partitions(cases: Mapping[str, Case]) -> Mapping[str, Partition]:
    """The partitions of `SPLITS`, by `shape-mode`."""
    made = {}
    for shape, mode, placement in SPLITS:
        plan = make_plan(cases[shape].program.graph, mode, "equal", SERVERS)
        name = f"{shape}-{mode}"
        made[name] = Partition(name, plan, PLACEMENTS[placement](plan, SERVERS), tuple(INTERFACES))
    return made


@dataclass(frozen=True)
class Running:
    """Model servers, and clients of the nodes that call them."""

    servers: Sequence[Mapping[str, Address]]
    client: Callable[[str, str], Client]
    """Transport and shape -> a client of nodes that hold the partitions of that shape."""


@pytest.fixture(scope="module")
def launcher() -> Iterator[LocalLauncher]:
    with LocalLauncher() as launcher:
        yield launcher


@pytest.fixture(scope="module")
def running(
    launcher: LocalLauncher,
    cases: Mapping[str, Case],
    partitions: Mapping[str, Partition],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Running]:
    programs = {partition: cases[name.rpartition("-")[0]].program for name, partition in partitions.items()}
    held = export(programs, tmp_path_factory.mktemp("served"))
    nodes = tmp_path_factory.mktemp("nodes")
    for partition, program in programs.items():
        export_nodes(program, partition, nodes)
    with contextlib.ExitStack() as stack:
        servers = stack.enter_context(ModelServers(Settings(BINARY, threads=1), launcher, held)).addresses()
        settings = ClusterSettings(REMOTE, SERVERS, nodes, 64, threads=1, model_servers=servers)
        cluster = stack.enter_context(Cluster(settings, launcher))
        by_name = {name: transports.make(name) for name in transports.NAMES}
        receiver = stack.enter_context(contextlib.closing(ResultReceiver(by_name)))

        def client(registries: Mapping[str, Address]) -> Client:
            return Client(stack.enter_context(contextlib.closing(Dispatcher(by_name, registries))), receiver)

        def direct(shape: str) -> Client:
            own = [partition for name, partition in partitions.items() if name.rpartition("-")[0] == shape]
            local = InProcessCluster(own, cases[shape].program, by_name["none"], servers)
            return client(stack.enter_context(local).registries)

        remote, here = client(cluster.registries), {shape: direct(shape) for shape in SHAPES}
        yield Running(servers, lambda transport, shape: here[shape] if transport == "none" else remote)


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("split", SPLITS, ids="-".join)
@pytest.mark.parametrize("way", WAYS, ids="-".join)
def test_equals_the_local_model(
    running: Running,
    cases: Mapping[str, Case],
    partitions: Mapping[str, Partition],
    way: tuple[str, str],
    split: tuple[str, str, str],
    flow: str,
) -> None:
    """The engines alternate, so that every transport, codec, flow and split is tested with both."""
    (transport, codec), (shape, mode, _) = way, split
    turn = WAYS.index(way) + SPLITS.index(split) + list(FLOWS).index(flow)
    engine, partition = list(INTERFACES)[turn % len(INTERFACES)], partitions[f"{shape}-{mode}"]
    for variant, local_calls in enumerate((True, False)):
        route = Route(partition.name, engine, transport, codec, flow, local_calls=local_calls)
        answer = running.client(transport, shape).infer(partition, route, cases[shape].inputs[variant], timeout=20.0)
        assert_right(answer.outputs, cases[shape].expected[variant])
        assert answer.stats.compute > 0


@pytest.mark.parametrize("engine", INTERFACES)
@pytest.mark.parametrize("shape", ["multi-output", "empty"])
def test_a_batch_of_nothing_is_answered(
    running: Running, cases: Mapping[str, Case], partitions: Mapping[str, Partition], shape: str, engine: str
) -> None:
    """JSON writes any such tensor as an empty list."""
    partition = partitions[f"{shape}-submodel"]
    inputs, expected = (
        {name: array[:0] for name, array in found[0].items()} for found in (cases[shape].inputs, cases[shape].expected)
    )
    answer = running.client("tcp", shape).infer(partition, Route(partition.name, engine, "tcp"), inputs, timeout=20.0)
    assert_right(answer.outputs, expected)


@pytest.mark.parametrize("engine", INTERFACES)
def test_a_stage_ends_at_the_deadline_of_its_request(
    running: Running, partitions: Mapping[str, Partition], cases: Mapping[str, Case], engine: str
) -> None:
    partition = partitions["sequential-submodel"]
    with contextlib.closing(ModelServerClients(running.servers)) as model_clients:
        (stage,) = model_clients.stages(partition, engine, 0).values()
        (x,) = cases["sequential"].inputs[0].values()
        with pytest.raises(DeadlineExceeded):
            stage([x], -1.0)
        assert stage([x], 20.0)  # the connection still works


@pytest.mark.parametrize("engine", INTERFACES)
def test_an_address_without_a_server_is_named(
    partitions: Mapping[str, Partition], cases: Mapping[str, Case], engine: str
) -> None:
    nowhere = Address("127.0.0.1", 1)
    with contextlib.closing(ModelServerClients([{"grpc": nowhere, "rest": nowhere}])) as model_clients:
        (stage,) = model_clients.stages(partitions["sequential-submodel"], engine, 0).values()
        (x,) = cases["sequential"].inputs[0].values()
        with pytest.raises((ConnectError, ConnectionLost), match=r"127\.0\.0\.1:1"):
            stage([x], 5.0)


@pytest.mark.parametrize("server", [1, 2])
def test_a_server_without_a_model_server_of_the_engine_is_named(
    partitions: Mapping[str, Partition], server: int
) -> None:
    clients = ModelServerClients([{}, {"rest": Address("127.0.0.1", 1)}])
    with pytest.raises(UsageError, match=f"no model server over grpc is named for server {server}"):
        clients.stages(partitions["sequential-submodel"], "tfserving", server)


def test_a_model_server_that_dies_is_named(tmp_path: Path, cases: Mapping[str, Case]) -> None:
    program = cases["sequential"].program
    plan = make_plan(program.graph, "whole", "equal", 1)
    partition = Partition("whole", plan, dict.fromkeys(plan.by_name, 0), tuple(INTERFACES))
    held = export({partition: program}, tmp_path)
    inputs = [*cases["sequential"].inputs[0].values()]
    with (
        LocalLauncher() as launcher,
        ModelServers(Settings(), launcher, held) as servers,
        contextlib.closing(ModelServerClients(servers.addresses())) as model_clients,
    ):
        stages = [model_clients.stages(partition, engine, 0)["stage-0"] for engine in INTERFACES]
        for stage in stages:
            assert_right(dict(zip(plan.outputs, stage(inputs), strict=True)), cases["sequential"].expected[0])
        launcher.check()
        launcher.signal("model-server-0", signal.SIGKILL)
        with pytest.raises(ClusterDown, match=r"model-server-0 \(TFS-compatible\) was ended by SIGKILL"):
            launcher.check(HINDSIGHT)
        for stage in stages:
            with pytest.raises((ConnectError, ConnectionLost)):
                stage(inputs, 5.0)
