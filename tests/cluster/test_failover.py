"""Nodes that die, stop and come back, with clients that go on: real processes, every flow."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import transports
from cluster.client import Answer, Client
from cluster.dispatcher import Dispatcher
from cluster.errors import NoServer, StaleEpoch
from cluster.flows import FLOWS
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher
from cluster.manifest import digests, of_portion
from cluster.partition import Partition, export
from cluster.request import Route
from cluster.result_receiver import ResultReceiver
from partitioning.placement import contiguous
from partitioning.strategies import make_plan
from tests.cluster.conftest import Case, assert_right
from tests.running import process_of
from transports.errors import ConnectError, ConnectionLost, WireError

pytestmark = pytest.mark.slow

SERVERS = 2
LEASE, STEADY = 2.0, 3.0
"""Seconds: of a cluster whose nodes are to lose their leases, and of one whose nodes are to keep theirs."""
RECOVERY = 60.0
"""Seconds within which a new node has to be there, on the slowest of machines."""


@dataclass
class Ward:
    """A cluster whose nodes may be hurt, and a client of it."""

    cluster: Cluster
    launcher: LocalLauncher
    partition: Partition
    case: Case
    client: Client

    def ask(self, flow: str, timeout: float = 10.0, repeats: int = 0) -> Answer:
        route = Route(self.partition.name, "frozen", "grpc", flow=flow)
        answer = self.client.infer(self.partition, route, self.case.inputs[0], timeout, repeats)
        assert_right(answer.outputs, self.case.expected[0])
        return answer

    def ask_until(self, flow: str, says: str = "") -> list[WireError]:
        """Ask again and again, until an error `says` that or, by default, until there is an answer; the errors."""
        errors: list[WireError] = []
        until = time.monotonic() + RECOVERY
        while time.monotonic() < until:
            try:
                self.ask(flow)
            except WireError as error:
                errors.append(error)
                if not says or says not in str(error):
                    continue
            return errors
        raise AssertionError(f"it did not come about: {errors[-1:]}")


@contextlib.contextmanager
def opened(cases: Mapping[str, Case], folder: Path, replicas: int, lease: float) -> Iterator[Ward]:
    case = cases["fork-join"]
    plan = make_plan(case.program.graph, "submodel", "equal", SERVERS)
    partition = Partition("p", plan, contiguous(plan, SERVERS), ("frozen",))
    export(case.program, partition, folder)
    settings = Settings(("grpc",), SERVERS, folder, workers=8, threads=1, replicas=replicas, lease=lease)
    carriers = {"grpc": transports.make("grpc")}
    with contextlib.ExitStack() as stack:
        launcher = stack.enter_context(LocalLauncher())
        cluster = stack.enter_context(Cluster(settings, launcher))
        dispatcher = stack.enter_context(contextlib.closing(Dispatcher(carriers, cluster.registries)))
        receiver = stack.enter_context(contextlib.closing(ResultReceiver(carriers)))
        yield Ward(cluster, launcher, partition, case, Client(dispatcher, receiver))


@pytest.fixture(scope="module")
def single(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with opened(cases, tmp_path_factory.mktemp("single"), 1, LEASE) as ward:
        yield ward


@pytest.fixture(scope="module")
def double(cases: Mapping[str, Case], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ward]:
    with opened(cases, tmp_path_factory.mktemp("double"), 2, STEADY) as ward:
        yield ward


@pytest.mark.parametrize("flow", FLOWS)
def test_a_killed_node_is_an_error_that_names_what_is_missing_until_another_has_its_portion(
    single: Ward, flow: str
) -> None:
    single.ask(flow)
    old = single.launcher.addresses("node-1")
    single.launcher.kill(["node-1"])
    errors = single.ask_until(flow, says="nobody holds stage 'stage-1'")
    single.cluster.replace("node-1")
    errors += single.ask_until(flow)
    assert {type(error) for error in errors} <= {ConnectError, ConnectionLost, NoServer}
    assert single.launcher.addresses("node-1") != old
    assert single.launcher.running() == {"registry", "node-0", "node-1"}


@pytest.mark.parametrize("flow", FLOWS)
def test_a_node_that_was_stopped_for_longer_than_its_lease_comes_back_under_a_new_epoch(
    single: Ward, flow: str
) -> None:
    single.ask(flow)
    single.launcher.signal("node-1", signal.SIGSTOP)
    try:
        with pytest.raises(WireError):
            single.ask(flow, timeout=LEASE / 2)
        threading.Event().wait(1.5 * LEASE)
        with pytest.raises(NoServer, match="stage-1"):
            single.ask(flow, timeout=5.0)
    finally:
        single.launcher.signal("node-1", signal.SIGCONT)
    errors = single.ask_until(flow)
    assert {type(error) for error in errors} <= {NoServer, StaleEpoch}


@pytest.mark.parametrize("flow", FLOWS)
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_one_of_two_servers_with_a_portion_may_die_and_no_request_fails(
    double: Ward, number: signal.Signals, flow: str
) -> None:
    names = {"registry", *double.cluster.nodes}
    for _ in range(4):
        double.ask(flow, repeats=3)
    assert double.launcher.running() == names
    double.launcher.signal("node-1", number)
    repeats = [double.ask(flow, timeout=20.0, repeats=3).repeats for _ in range(20)]
    assert sum(repeats) <= 4  # and not one for every other request: who failed is not asked again
    double.cluster.replace("node-1")
    double.launcher.addresses("node-1")
    assert double.ask(flow, repeats=3).repeats <= 1


def test_servers_with_one_portion_take_turns(double: Ward) -> None:
    """Each request costs its server time; over many, both have spent some."""
    first, second = (process_of(double.launcher, name) for name in ("node-0", "node-2"))
    before = [sum(process.cpu_times()[:2]) for process in (first, second)]
    for _ in range(400):
        double.ask("hub", repeats=3)
    spent = [sum(process.cpu_times()[:2]) - then for process, then in zip((first, second), before, strict=True)]
    assert min(spent) > 0.25 * max(spent)


CHANGED = {
    "weights": "p/server-0/arrays.npz",
    "plan": "p/partition.json",
    "addition": "p/server-0/more.json",
    "removal": "p/partition.json",
}


@pytest.mark.parametrize("change", CHANGED)
def test_a_node_loads_nothing_but_what_was_exported(cases: Mapping[str, Case], tmp_path: Path, change: str) -> None:
    from cluster.errors import Tampered
    from cluster.model_servers.client import ModelServerClients
    from cluster.node_server import load_shards

    case = cases["fork-join"]
    plan = make_plan(case.program.graph, "submodel", "equal", SERVERS)
    export(case.program, Partition("p", plan, contiguous(plan, SERVERS), ("eager",)), tmp_path)
    files = of_portion(digests(tmp_path), 0)
    assert {Path(name).parts[1] for name in files} == {"partition.json", "server-0"}
    assert list(load_shards(tmp_path, files, 0, ModelServerClients([]))) == [("p", "eager")]
    path = tmp_path / CHANGED[change]
    if change == "removal":
        path.unlink()
    else:
        path.write_bytes((path.read_bytes() if path.exists() else b"") + b" ")
    with pytest.raises(Tampered, match=path.name):
        load_shards(tmp_path, files, 0, ModelServerClients([]))
