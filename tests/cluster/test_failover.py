"""Nodes that die, stop and return while clients send requests: real processes, every flow."""

from __future__ import annotations

import contextlib
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import transports
from cluster.client import Answer, Client
from cluster.dispatcher import Dispatcher
from cluster.errors import ClusterDown, NoServer, StaleEpoch
from cluster.flows import FLOWS
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher
from cluster.manifest import digests, of_portion
from cluster.partition import Partition, export
from cluster.request import Route
from cluster.result_receiver import ResultReceiver
from partitioning.engine_table import EMPTY
from partitioning.placement import contiguous
from partitioning.strategies import make_plan
from tests.cluster.conftest import Case, assert_right
from tests.faults.common import frozen
from tests.running import process_of
from transports.errors import ConnectError, ConnectionLost, WireError

pytestmark = pytest.mark.slow

SERVERS = 2
LEASE, STEADY = 2.0, 3.0
"""Seconds of a lease: short for tests in which nodes lose their leases, longer for tests in which nodes keep them."""
RECOVERY = 60.0
"""Seconds within which a new node has to be ready, on slow machines."""


@dataclass
class ClusterUnderTest:
    """A cluster whose nodes the tests stop and kill, and its client."""

    cluster: Cluster
    launcher: LocalLauncher
    partition: Partition
    case: Case
    client: Client

    def infer(self, flow: str, timeout: float = 10.0, repeats: int = 0) -> Answer:
        route = Route(self.partition.name, "frozen", "grpc", flow=flow)
        answer = self.client.infer(self.partition, route, self.case.inputs[0], timeout, repeats)
        assert_right(answer.outputs, self.case.expected[0])
        return answer

    def infer_until(self, flow: str, says: str = "") -> list[WireError]:
        """Repeat a request until an error contains `says` (empty: until it is answered); returns the errors."""
        errors: list[WireError] = []
        until = time.monotonic() + RECOVERY
        while time.monotonic() < until:
            try:
                self.infer(flow)
            except WireError as error:
                errors.append(error)
                if not says or says not in str(error):
                    continue
            return errors
        raise AssertionError(f"it did not happen: {errors[-1:]}")


@contextlib.contextmanager
def opened(cases: Mapping[str, Case], folder: Path, replicas: int, lease: float) -> Iterator[ClusterUnderTest]:
    case = cases["fork-join"]
    plan = make_plan(case.program.graph, "submodel", "equal", SERVERS)
    partition = Partition("p", plan, contiguous(plan, SERVERS), ("frozen",))
    export(case.program, partition, folder)
    settings = Settings(("grpc",), SERVERS, folder, workers=8, threads=1, replicas=replicas, lease=lease)
    with LocalLauncher() as launcher:
        with Cluster(settings, launcher) as cluster, client_of(cluster) as client:
            shutil.rmtree(folder)  # the launcher has copied the files, also for nodes that are started later
            yield ClusterUnderTest(cluster, launcher, partition, case, client)
        assert launcher.running() == frozenset()


@contextlib.contextmanager
def client_of(cluster: Cluster) -> Iterator[Client]:
    by_name = {"grpc": transports.make("grpc")}
    dispatcher, receiver = Dispatcher(by_name, cluster.registries), ResultReceiver(by_name)
    with contextlib.closing(dispatcher), contextlib.closing(receiver):
        yield Client(dispatcher, receiver)


@pytest.fixture(scope="module")
def single(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    with opened(cases, tmp_path_factory.mktemp("single"), 1, LEASE) as under_test:
        yield under_test


@pytest.fixture(scope="module")
def double(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterUnderTest]:
    with opened(cases, tmp_path_factory.mktemp("double"), 2, STEADY) as under_test:
        yield under_test


@pytest.mark.parametrize("flow", FLOWS)
def test_requests_name_the_missing_stage_until_a_killed_node_is_replaced(single: ClusterUnderTest, flow: str) -> None:
    single.infer(flow)
    old = single.launcher.addresses("node-1")
    single.launcher.kill(["node-1"])
    errors = single.infer_until(flow, says="no server holds stage 'stage-1'")
    single.cluster.replace("node-1")
    errors += single.infer_until(flow)
    assert {type(error) for error in errors} <= {ConnectError, ConnectionLost, NoServer}
    assert single.launcher.addresses("node-1") != old
    assert single.launcher.running() == {"registry", "node-0", "node-1"}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_node_stopped_for_longer_than_its_lease_returns_under_a_new_epoch(
    single: ClusterUnderTest, flow: str
) -> None:
    single.infer(flow)
    with frozen(process_of(single.launcher, "node-1").pid):
        with pytest.raises(WireError):
            single.infer(flow, timeout=LEASE / 2)
        threading.Event().wait(1.5 * LEASE)
        with pytest.raises(NoServer, match="stage-1"):
            single.infer(flow, timeout=5.0)
    errors = single.infer_until(flow)
    assert {type(error) for error in errors} <= {NoServer, StaleEpoch}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_request_fails_if_one_of_two_holders_of_a_portion_dies(
    double: ClusterUnderTest, number: signal.Signals, flow: str
) -> None:
    names = {"registry", *double.cluster.nodes}
    for _ in range(4):
        double.infer(flow, repeats=3)
    assert double.launcher.running() == names
    double.launcher.signal("node-1", number)
    repeats = [double.infer(flow, timeout=20.0, repeats=3).repeats for _ in range(20)]
    assert sum(repeats) <= 4  # not every second request: the client avoids the replica that failed
    double.cluster.replace("node-1")
    double.launcher.addresses("node-1")
    assert double.infer(flow, repeats=3).repeats <= 1


def test_replicas_take_turns(double: ClusterUnderTest) -> None:
    """After many requests of a new client, which avoids no replica, each replica has spent processor time."""
    double.cluster.wait_ready()
    first, second = (process_of(double.launcher, name) for name in ("node-0", "node-2"))
    before = [sum(process.cpu_times()[:2]) for process in (first, second)]
    with client_of(double.cluster) as client:
        fresh = replace(double, client=client)
        for _ in range(400):
            fresh.infer("hub", repeats=3)
    spent = [sum(process.cpu_times()[:2]) - then for process, then in zip((first, second), before, strict=True)]
    assert min(spent) > 0.25 * max(spent)


CHANGED = {
    "weights": "p/server-0/arrays.npz",
    "plan": "p/partition.json",
    "addition": "p/server-0/more.json",
    "removal": "p/partition.json",
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_node_refuses_files_that_changed_after_the_export(
    cases: Mapping[str, Case], tmp_path: Path, change: str
) -> None:
    from cluster.errors import Tampered
    from cluster.model_servers.client import ModelServerClients
    from cluster.node_server import load_shards

    case = cases["fork-join"]
    plan = make_plan(case.program.graph, "submodel", "equal", SERVERS)
    export(case.program, Partition("p", plan, contiguous(plan, SERVERS), ("eager",)), tmp_path)
    files = of_portion(digests(tmp_path), 0)
    assert {Path(name).parts[1] for name in files} == {"partition.json", "server-0"}
    assert {*load_shards(tmp_path, files, 0, ModelServerClients([]))} == {("p", "eager"), ("p", EMPTY)}
    path = tmp_path / CHANGED[change]
    if change == "removal":
        path.unlink()
    else:
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    with pytest.raises(Tampered, match=path.name):
        load_shards(tmp_path, files, 0, ModelServerClients([]))


def test_a_partition_that_cannot_be_loaded_is_named_before_any_request(
    cases: Mapping[str, Case], tmp_path: Path
) -> None:
    case = cases["fork-join"]
    plan = make_plan(case.program.graph, "submodel", "equal", SERVERS)
    for name in ("first", "second"):
        export(case.program, Partition(name, plan, contiguous(plan, SERVERS), ("eager",)), tmp_path)
    (tmp_path / "second" / "server-1" / "operations.json").write_text('{"format": 2}')
    settings = Settings(("tcp",), SERVERS, tmp_path, workers=2)
    message = r"node-1 ended with status 1: error: partition 'second' on server 1: .*operations\.json"
    with LocalLauncher() as launcher, pytest.raises(ClusterDown, match=message), Cluster(settings, launcher):
        pytest.fail("the cluster must not be ready")
