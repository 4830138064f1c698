"""The local launcher: the channel for events, the single thread of the fork server, and clean ends."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

import transports
from cluster import scratch
from cluster.config import RegistryConfig
from cluster.errors import ClusterDown
from cluster.launchers import LocalLauncher, Order, pipe
from cluster.launchers.piped import PipedLauncher
from tests.running import assert_gone, process_of
from transports.base import Message

ROOT = Path(__file__).parents[3]
REGISTRY = RegistryConfig(servers=1, transports=("rpyc",))

PRINTS = """
import os, sys

def flood():
    print("x", end="", flush=True)
    for _ in range(2000):
        os.write(1, b"y" * 1000)

def audit(event, arguments):
    if event == "socket.bind":
        flood()

sys.addaudithook(audit)
print("printed when the interpreter starts", end="", flush=True)
"""


def test_output_of_processes_disturbs_no_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python imports `sitecustomize` first. It prints without a newline, at the start and before a port is bound."""
    (tmp_path / "sitecustomize.py").write_text(PRINTS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with LocalLauncher() as launcher:
        for name in ("first", "second"):
            launcher.start(Order(name, REGISTRY))
        for name in ("first", "second"):
            with transports.make("rpyc").connect(launcher.addresses(name)["rpyc"]) as connection:
                assert (
                    connection.call(Message("who", {"partition": "p", "transport": "rpyc"}), 10.0).fields["ttl"] == 10
                )
            assert launcher.tail(name).endswith("y" * 1000)


def test_the_fork_server_starts_no_thread_and_leaves_no_zombie() -> None:
    with LocalLauncher() as launcher:
        fork_server = psutil.Process(launcher.pid)
        threads = []
        for name in ("first", "second", "third"):
            launcher.start(Order(name, REGISTRY))
            launcher.addresses(name)
            threads.append(fork_server.num_threads())
        assert len(set(threads)) == 1
        launcher.stop(["first", "second", "third"])
        assert fork_server.children() == []


CLIENT = """
import sys
from cluster.config import RegistryConfig
from cluster import scratch
from cluster.launchers import LocalLauncher, Order
scratch.home()
with LocalLauncher() as launcher:
    for name in ("first", "second"):
        launcher.start(Order(name, RegistryConfig(servers=1, transports=("rpyc",))))
    print(launcher.pid, *(launcher.addresses(name)["rpyc"].port for name in ("first", "second")), flush=True)
    sys.stdin.read()
"""
KILLED: dict[str, Callable[[psutil.Process, psutil.Process], list[psutil.Process]]] = {
    "client": lambda client, fork_server: [client],
    "fork server": lambda client, fork_server: [fork_server],
    "both": lambda client, fork_server: [client, fork_server],  # in the other order, the next run deletes the folder
    "process": lambda client, fork_server: fork_server.children()[:1],
}


@pytest.mark.alone
@pytest.mark.parametrize("killed", KILLED)
def test_nothing_is_left_after_a_kill(killed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a process, a port, nor a file in TMPDIR or /dev/shm. A client that survives leaves its launcher."""
    (folder := tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", CLIENT], cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as client:
        assert client.stdin is not None
        assert client.stdout is not None
        pid, *ports = map(int, client.stdout.readline().split())
        fork_server = psutil.Process(pid)
        family = [fork_server, *fork_server.children(recursive=True)]
        assert [bool(scratch.NAME.fullmatch(path.name)) for path in folder.iterdir()] == [True]
        for victim in KILLED[killed](psutil.Process(client.pid), fork_server):
            victim.kill()
        client.stdin.close()
        client.wait(60)
    assert_gone(family)
    assert list(folder.iterdir()) == []
    assert {path.name for path in Path("/dev/shm").iterdir()} - shared == set()
    for port in ports:
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", port))


def test_a_killed_fork_server_is_named() -> None:
    with LocalLauncher() as launcher:
        launcher.start(Order("registry", REGISTRY))
        launcher.addresses("registry")
        process = process_of(launcher, "registry")
        psutil.Process(launcher.pid).kill()
        with pytest.raises(ClusterDown, match="launcher was ended by SIGKILL"):
            launcher.check(60)
        with pytest.raises(ClusterDown, match="launcher was ended by SIGKILL"):
            launcher.start(Order("other", REGISTRY))
        assert launcher.running() == frozenset()
        assert_gone([process])


def test_a_program_that_closes_its_output_and_stays_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an ssh whose connection hangs."""
    monkeypatch.setattr(pipe, "END", 0.5)
    way = pipe.Way(("sh", "-c", "exec >&-; exec sleep 600"), "the way there")
    with PipedLauncher({"": way}) as launcher, pytest.raises(ClusterDown, match="the way there was ended by SIGKILL"):
        launcher.check(60)


@pytest.mark.skipif(not hasattr(psutil.Process, "cpu_affinity"), reason="this system pins no process")
def test_a_process_pins_itself_with_all_its_threads() -> None:
    core = min(psutil.Process().cpu_affinity())
    with LocalLauncher() as launcher:
        launcher.start(Order("registry", RegistryConfig(servers=1, cores=(core,))))
        launcher.addresses("registry")
        threads = process_of(launcher, "registry").threads()
        assert len(threads) > 1
        assert {tuple(psutil.Process(thread.id).cpu_affinity()) for thread in threads} == {(core,)}
