"""The contract of launchers, tested with each one in `LAUNCHERS`."""

from __future__ import annotations

import contextlib
import hashlib
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import transports
from cluster.config import NodeConfig, RegistryConfig
from cluster.errors import ClusterDown
from cluster.launchers import HINDSIGHT, Launcher, LocalLauncher, Order
from cluster.launchers.piped import PipedLauncher
from tests.lab import ADDRESSES, CLIENT, lab, needs_ssh
from tests.running import ROOT

PLAN = "p/partition.json"


@dataclass(frozen=True)
class Site:
    """A launcher, and how the machines of its processes are reached."""

    make: Callable[[], Launcher]
    """A new launcher."""
    address: str = "127.0.0.1"
    """That of the processes."""
    peer: Sequence[str] = ()
    """The beginning of a command on a machine that reaches them."""
    host: Sequence[str] = ()
    """The beginning of a command on their own machine."""

    def registry(self, **fields: object) -> RegistryConfig:
        return RegistryConfig(servers=1, **{"bind": self.address, "insecure": True} | fields)  # type: ignore[arg-type]

    def run(self, where: Sequence[str], program: str, *words: object) -> str:
        """What a Python program prints."""
        command = [*where, sys.executable, "-c", program, *map(str, words)]
        return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


@contextmanager
def local() -> Iterator[Site]:
    yield Site(LocalLauncher)


@contextmanager
def over_ssh() -> Iterator[Site]:
    """Two hosts. Processes run on the first one, edge, unless their order names the other."""
    with lab() as hosts:
        ways, command = hosts.ways(), hosts.net.command
        yield Site(lambda: PipedLauncher(ways), ADDRESSES["edge"], command(CLIENT, []), command("edge", []))


SITES: Mapping[str, Callable[[], AbstractContextManager[Site]]] = {
    "local": local,
    "ssh": over_ssh,
}
PARAMETERS = [pytest.param(name, marks=[] if name == "local" else needs_ssh) for name in SITES]


@pytest.fixture(scope="module", params=PARAMETERS)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    with SITES[request.param]() as made:
        yield made


@pytest.fixture(scope="module")
def shared(site: Site) -> Iterator[Launcher]:
    with site.make() as made:
        yield made


@pytest.fixture
def launcher(shared: Launcher) -> Iterator[Launcher]:
    """A launcher without processes."""
    yield shared
    shared.kill(["registry", "node-0"])


def node_order(
    site: Site, name: str, file: Path, registries: Mapping[str, transports.Address], content: bytes = b"{}"
) -> Order:
    """A node whose files are `file` alone, under the name `PLAN`, with the digest of `content`."""
    sha256 = hashlib.sha256(content).hexdigest()
    registry = {transport: str(address) for transport, address in registries.items()}
    config = NodeConfig(registry=registry, files={PLAN: sha256}, bind=site.address, insecure=True)
    return Order(name, config, {sha256: file})


CALL = """
import sys
import transports
from transports.base import Message
name, address = sys.argv[1:]
with transports.make(name).connect(transports.Address.parse(address)) as connection:
    print(connection.call(Message("who", {"partition": "p", "transport": name}), 10.0).method)
"""
BIND = """
import socket, sys
with socket.socket() as again:
    again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    again.bind((sys.argv[1], int(sys.argv[2])))
"""


def test_a_process_is_ready_at_its_addresses_until_it_is_stopped(site: Site, launcher: Launcher) -> None:
    launcher.start(Order("registry", site.registry(transports=("grpc", "rest"))))
    found = launcher.addresses("registry")
    assert list(found) == ["grpc", "rest"]
    for name, address in found.items():
        assert address.host == site.address
        assert site.run(site.peer, CALL, name, address) == "holders"
    assert launcher.running() == {"registry"}
    launcher.stop(["registry"])
    assert launcher.running() == frozenset()
    launcher.check()
    for address in found.values():
        site.run(site.host, BIND, *address)


def test_a_name_is_taken_while_its_process_runs(site: Site, launcher: Launcher) -> None:
    launcher.start(Order("registry", site.registry()))
    first = launcher.addresses("registry")
    with pytest.raises(ValueError, match="'registry' runs already"):
        launcher.start(Order("registry", site.registry()))
    launcher.kill(["registry"])
    launcher.start(Order("registry", site.registry()))
    assert launcher.addresses("registry") != first


def test_files_are_copied_by_content_and_may_be_deleted(site: Site, launcher: Launcher, tmp_path: Path) -> None:
    """The node reads the copy, which is a partition without a plan."""
    launcher.start(Order("registry", site.registry()))
    (file := tmp_path / "any name").write_bytes(b"{}")
    launcher.start(node_order(site, "node-0", file, launcher.addresses("registry")))
    file.unlink()
    with pytest.raises(
        ClusterDown, match=r"node-0 ended with status 1: error: .*holds no partition \(KeyError: 'plan'\)"
    ):
        launcher.addresses("node-0")


def test_a_file_that_cannot_be_read_starts_no_process(site: Site, launcher: Launcher, tmp_path: Path) -> None:
    order = Order("node-0", NodeConfig(registry={}, files={PLAN: "1" * 64}), {"1" * 64: tmp_path / "nowhere"})
    with pytest.raises(FileNotFoundError):
        launcher.start(order)
    assert launcher.running() == frozenset()


def test_a_file_with_another_content_is_refused_on_arrival(site: Site, tmp_path: Path) -> None:
    with site.make() as launcher:
        launcher.start(Order("registry", site.registry()))
        (file := tmp_path / "file").write_bytes(b"{ }")
        launcher.start(node_order(site, "node-0", file, launcher.addresses("registry"), content=b"never sent"))
        with pytest.raises(ClusterDown, match=r"partition\.json is not what was exported"):
            launcher.addresses("node-0")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_unexpected_end_is_a_failure_with_its_cause(site: Site, launcher: Launcher, number: signal.Signals) -> None:
    launcher.start(Order("registry", site.registry(), title="registry (of a test)"))
    launcher.addresses("registry")
    launcher.check()
    launcher.signal("registry", number)
    ending = "was ended by SIGKILL" if number == signal.SIGKILL else "ended with status 0"
    with pytest.raises(ClusterDown, match=rf"registry \(of a test\) {ending}"):
        launcher.check(10 * HINDSIGHT)
    assert launcher.running() == frozenset()
    launcher.stop(["registry"])
    launcher.check()


def test_the_log_of_a_process_can_be_read_before_and_after_its_end(site: Site, launcher: Launcher) -> None:
    launcher.start(Order("registry", site.registry(bind="0.0.0.0")))
    launcher.addresses("registry")
    assert "can be reached from other machines" in launcher.tail("registry")
    launcher.stop(["registry"])
    assert "can be reached from other machines" in launcher.tail("registry")


def test_a_document_that_cannot_be_used_ends_the_process_with_status_2(site: Site, launcher: Launcher) -> None:
    launcher.start(Order("registry", site.registry(transports=("gprc",))))
    with pytest.raises(ClusterDown, match=r"registry ended with status 2: error: .*did you mean 'grpc'"):
        launcher.addresses("registry")


def test_a_suspended_process_ends_too(site: Site, launcher: Launcher) -> None:
    """It ignores SIGTERM, but not SIGKILL."""
    launcher.start(Order("registry", site.registry()))
    launcher.addresses("registry")
    launcher.signal("registry", signal.SIGSTOP)
    launcher.stop(["registry"])
    assert launcher.running() == frozenset()


def test_a_launcher_without_processes_ends_at_once(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        launcher = stack.enter_context(site.make())
        assert launcher.running() == frozenset()
        launcher.check()
