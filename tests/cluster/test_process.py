"""The processes of a cluster as a person starts them by hand, and how they end."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import transports
from cluster.errors import ClusterDown
from cluster.launch import Cluster, LocalLauncher, Settings
from tests.cluster.conftest import WIRES
from transports.base import Message
from transports.process import parse_ready

NODE = ["node", "--exports", "nowhere", "--digest", "", "--registry"]
ROOT = Path(__file__).parent.parent.parent
WAIT = 60.0
"""Seconds within which a process has to end, on the slowest of machines."""
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts `python -m cluster.process`, and sees to it that none outlives its test."""
    begun: list[subprocess.Popen[str]] = []

    def run(*words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        command = [sys.executable, "-m", "cluster.process", *words]
        begun.append(subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=pipe, text=True))
        return begun[-1]

    yield run
    for process in begun:
        with process:  # closes its pipes, and waits
            process.kill()


def ready(process: subprocess.Popen[str]) -> dict[str, transports.Address]:
    assert process.stdout is not None
    words = process.stdout.readline().split()
    assert words[0] == "READY"
    return parse_ready(words[1:])


def test_a_registry_serves_every_transport_at_once(start: Start) -> None:
    addresses = ready(start("registry", "--servers", "2", "--transport", ",".join(WIRES)))
    assert list(addresses) == list(WIRES)
    for number, name in enumerate(WIRES[:2]):
        with transports.make(name).connect(addresses[name]) as connection:
            reply = connection.call(Message("register", {"transport.grpc": f"127.0.0.1:{7000 + number}"}), 5.0)
            assert reply.fields["server"] == number


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_and_frees_its_port(start: Start, number: signal.Signals) -> None:
    process = start("registry", "--servers", "1")
    address = ready(process)["grpc"]
    process.send_signal(number)
    assert process.wait(WAIT) == 0
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(address)


def test_it_ends_with_the_standard_input_of_its_launcher(start: Start) -> None:
    process = start("registry", "--servers", "1", "--until-eof")
    ready(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(WAIT) == 0


def test_a_port_that_is_taken_is_one_clear_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("registry", "--servers", "1", "--port", str(port))
        _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"error: cannot bind 127.0.0.1:{port}")


def test_an_unknown_transport_is_refused(start: Start) -> None:
    _, err = (process := start("registry", "--servers", "1", "--transport", "gprc")).communicate(timeout=WAIT)
    assert process.returncode == 2
    assert "did you mean 'grpc'" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["registry", "--servers", "1", "--transport", "rest", "--port", "70000"], "port 70000"),
        (["registry", "--servers", "1", "--transport", "grpc,rpyc", "--port", "65535"], "2 transports take that many"),
        (["registry", "--servers", "1", "--option", "grpc.max_message=-1048577"], "valid: 1 to"),
        ([*NODE, "rest=127.0.0.1:7000"], "--registry: where does it listen over grpc?"),
        ([*NODE, "grpc=127.0.0.1:70000"], "'127.0.0.1:70000' is no address"),
        ([*NODE, "grpc=127.0.0.1:7000", "--model-server", "grpc=nowhere"], "--model-server: 'nowhere' is no address"),
    ],
)
def test_what_cannot_be_an_address_is_one_clear_line(start: Start, words: list[str], says: str) -> None:
    _, err = (process := start(*words)).communicate(timeout=WAIT)
    assert process.returncode == 2
    assert says in err.splitlines()[-1]


def test_an_address_beyond_this_machine_is_refused_without_tls(start: Start) -> None:
    process = start("registry", "--servers", "1", "--host", "0.0.0.0")
    _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 2
    assert "tls_cert" in err


def test_insecure_is_allowed_by_saying_so_and_warned_of(start: Start) -> None:
    process = start("registry", "--servers", "1", "--host", "0.0.0.0", "--insecure")
    assert ready(process)["grpc"].host == "0.0.0.0"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=WAIT)
    assert err.splitlines()[0].startswith("0.0.0.0 can be reached from other machines")


KEEPING = """
import resource, sys, threading
import numpy as np
from transports.process import keep_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    held = [np.ones(10 * 2**20, np.uint8) for _ in range(4)]  # what is left of the thread's heap is less than a tensor
    np.ones(26 * 2**20, np.uint8)
    before = faults()
    for _ in range(20):
        np.ones(26 * 2**20, np.uint8)
    print(faults() - before)

if not keep_memory():
    sys.exit("not here")
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def test_freed_memory_stays_where_a_tensor_has_a_heap_of_its_own() -> None:
    """A thread's tensor of 26 MB, 6,656 pages, is not faulted in again each time."""
    done = subprocess.run([sys.executable, "-c", KEEPING], cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    if "not here" in done.stderr:
        pytest.skip("this C library keeps no freed memory")
    assert int(done.stdout) < 1000, done.stderr


@pytest.mark.slow
def test_a_node_that_cannot_load_its_portion_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "partition.json").write_text("{}")
    with LocalLauncher() as launcher, pytest.raises(ClusterDown, match="node-0 ended with status 1: KeyError: 'plan'"):
        Cluster(Settings(("grpc",), 1, tmp_path, workers=2), launcher)
