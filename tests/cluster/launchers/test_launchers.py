"""The contract of launchers, tested with each one in `LAUNCHERS`."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import transports
from cluster.config import NodeConfig, RegistryConfig
from cluster.errors import ClusterDown
from cluster.launchers import HINDSIGHT, Launcher, LocalLauncher, Order
from transports.base import Message

LAUNCHERS: Mapping[str, Callable[[], Launcher]] = {"local": LocalLauncher}
"""Launchers whose processes this machine can reach."""
REGISTRY = RegistryConfig(servers=1)
PLAN = "p/partition.json"


@pytest.fixture(scope="module", params=LAUNCHERS)
def shared(request: pytest.FixtureRequest) -> Iterator[Launcher]:
    with LAUNCHERS[request.param]() as made:
        yield made


@pytest.fixture
def launcher(shared: Launcher) -> Iterator[Launcher]:
    """A launcher without processes."""
    yield shared
    shared.kill(["registry", "node-0"])


def node_order(name: str, file: Path, registries: Mapping[str, transports.Address]) -> Order:
    """A node whose files are `file` alone, under the name `PLAN`, with the digest of "{}"."""
    sha256 = hashlib.sha256(b"{}").hexdigest()
    registry = {transport: str(address) for transport, address in registries.items()}
    return Order(name, NodeConfig(registry=registry, files={PLAN: sha256}), {sha256: file})


def test_a_process_is_ready_at_its_addresses_until_it_is_stopped(launcher: Launcher) -> None:
    launcher.start(Order("registry", RegistryConfig(servers=1, transports=("grpc", "rest"))))
    found = launcher.addresses("registry")
    assert list(found) == ["grpc", "rest"]
    for name, address in found.items():
        with transports.make(name).connect(address) as connection:
            assert connection.call(Message("who", {"partition": "p", "transport": name}), 10.0).method == "holders"
    assert launcher.running() == {"registry"}
    launcher.stop(["registry"])
    assert launcher.running() == frozenset()
    launcher.check()
    for address in found.values():
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(address)


def test_a_name_is_taken_while_its_process_runs(launcher: Launcher) -> None:
    launcher.start(Order("registry", REGISTRY))
    first = launcher.addresses("registry")
    with pytest.raises(ValueError, match="'registry' runs already"):
        launcher.start(Order("registry", REGISTRY))
    launcher.kill(["registry"])
    launcher.start(Order("registry", REGISTRY))
    assert launcher.addresses("registry") != first


def test_files_are_copied_by_content_and_may_be_deleted(launcher: Launcher, tmp_path: Path) -> None:
    """The node reads the copy, which is a partition without a plan."""
    launcher.start(Order("registry", REGISTRY))
    (file := tmp_path / "any name").write_bytes(b"{}")
    launcher.start(node_order("node-0", file, launcher.addresses("registry")))
    file.unlink()
    with pytest.raises(
        ClusterDown, match=r"node-0 ended with status 1: error: .*holds no partition \(KeyError: 'plan'\)"
    ):
        launcher.addresses("node-0")


def test_a_file_that_cannot_be_read_starts_no_process(launcher: Launcher, tmp_path: Path) -> None:
    order = Order("node-0", NodeConfig(registry={}, files={PLAN: "1" * 64}), {"1" * 64: tmp_path / "nowhere"})
    with pytest.raises(FileNotFoundError):
        launcher.start(order)
    assert launcher.running() == frozenset()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_file_with_another_content_is_refused_on_arrival(name: str, tmp_path: Path) -> None:
    with LAUNCHERS[name]() as launcher:
        launcher.start(Order("registry", REGISTRY))
        (file := tmp_path / "file").write_bytes(b"{ }")
        launcher.start(node_order("node-0", file, launcher.addresses("registry")))
        with pytest.raises(ClusterDown, match=r"partition\.json is not what was exported"):
            launcher.addresses("node-0")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_unexpected_end_is_a_failure_with_its_cause(launcher: Launcher, number: signal.Signals) -> None:
    launcher.start(Order("registry", REGISTRY, title="registry (of a test)"))
    launcher.addresses("registry")
    launcher.check()
    launcher.signal("registry", number)
    ending = "was ended by SIGKILL" if number == signal.SIGKILL else "ended with status 0"
    with pytest.raises(ClusterDown, match=rf"registry \(of a test\) {ending}"):
        launcher.check(10 * HINDSIGHT)
    assert launcher.running() == frozenset()
    launcher.stop(["registry"])
    launcher.check()


def test_the_log_of_a_process_can_be_read_before_and_after_its_end(launcher: Launcher) -> None:
    launcher.start(Order("registry", RegistryConfig(servers=1, bind="0.0.0.0", insecure=True)))
    launcher.addresses("registry")
    assert "can be reached from other machines" in launcher.tail("registry")
    launcher.stop(["registry"])
    assert "can be reached from other machines" in launcher.tail("registry")


def test_a_document_that_cannot_be_used_ends_the_process_with_status_2(launcher: Launcher) -> None:
    launcher.start(Order("registry", RegistryConfig(servers=1, transports=("gprc",))))
    with pytest.raises(ClusterDown, match=r"registry ended with status 2: error: .*did you mean 'grpc'"):
        launcher.addresses("registry")


def test_a_suspended_process_ends_too(launcher: Launcher) -> None:
    """It ignores SIGTERM, but not SIGKILL."""
    launcher.start(Order("registry", REGISTRY))
    launcher.addresses("registry")
    launcher.signal("registry", signal.SIGSTOP)
    launcher.stop(["registry"])
    assert launcher.running() == frozenset()


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_without_processes_ends_at_once(name: str) -> None:
    with contextlib.ExitStack() as stack:
        launcher = stack.enter_context(LAUNCHERS[name]())
        assert launcher.running() == frozenset()
        launcher.check()
