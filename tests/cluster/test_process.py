"""The processes of a cluster, started as from a shell, and how they end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import transports
from tests.faults.common import REMOTE
from transports.base import Message
from transports.process import parse_ready

ROOT = Path(__file__).parent.parent.parent
WAIT = 60.0
"""Seconds within which a process has to end, on slow machines."""
REGISTRY: dict[str, Any] = {"kind": "registry", "servers": 1}
NODE: dict[str, Any] = {"kind": "node", "registry": {"grpc": "127.0.0.1:7000"}}
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts `python -m cluster.process` with a document, and ends it with the test."""
    begun: list[subprocess.Popen[str]] = []

    def run(document: dict[str, Any], *words: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        (config := tmp_path / "config.json").write_text(json.dumps(document))
        command = [sys.executable, "-m", "cluster.process", "--config", str(config), *words]
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
    addresses = ready(start({"kind": "registry", "servers": 2, "transports": REMOTE}))
    assert list(addresses) == list(REMOTE)
    for number, name in enumerate(REMOTE[:2]):
        with transports.make(name).connect(addresses[name]) as connection:
            reply = connection.call(Message("register", {"transport.grpc": f"127.0.0.1:{7000 + number}"}), 5.0)
            assert reply.fields["server"] == number


def test_the_document_may_come_from_standard_input() -> None:
    command = [sys.executable, "-m", "cluster.process", "--config", "-"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(REGISTRY))
        process.stdin.close()
        assert list(ready(process)) == ["grpc"]
        process.terminate()
        assert process.wait(WAIT) == 0


def test_another_address_may_be_advertised_than_is_bound(start: Start) -> None:
    found = ready(start(REGISTRY | {"advertise": "localhost"}))["grpc"]
    assert found.host == "localhost"
    with transports.make("grpc").connect(found) as connection:
        assert connection.call(Message("register", {"transport.grpc": "127.0.0.1:7000"}), 5.0).fields["server"] == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_and_frees_its_port(start: Start, number: signal.Signals) -> None:
    process = start(REGISTRY)
    address = ready(process)["grpc"]
    process.send_signal(number)
    assert process.wait(WAIT) == 0
    with socket.socket() as again:
        again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        again.bind(address)


def test_a_process_ends_when_its_standard_input_closes(start: Start) -> None:
    process = start(REGISTRY, "--until-eof")
    ready(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(WAIT) == 0


def test_a_taken_port_is_reported_on_one_line(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(REGISTRY | {"port": port})
        _, err = process.communicate(timeout=WAIT)
    assert process.returncode == 1
    assert err.splitlines()[-1].startswith(f"error: cannot bind 127.0.0.1:{port}")


REFUSED: list[tuple[dict[str, Any], str]] = [
    (REGISTRY | {"transports": ["gprc"]}, "did you mean 'grpc'"),
    (REGISTRY | {"transports": ["rest"], "port": 70000}, "port 70000"),
    (REGISTRY | {"transports": ["grpc", "rpyc"], "port": 65535}, "2 transports take that many"),
    (REGISTRY | {"options": {"grpc.max_message": "-1048577"}}, "valid: 1 to"),
    (REGISTRY | {"servers": 0}, "at `$.servers`"),
    (REGISTRY | {"cores": [99999]}, "may not use core 99999"),
    (REGISTRY | {"bind": "0.0.0.0"}, "tls_cert"),
    (NODE | {"registry": {"rest": "127.0.0.1:7000"}}, "registry: no address over grpc"),
    (NODE | {"registry": {"grpc": "127.0.0.1:70000"}}, "'127.0.0.1:70000' is no address"),
    (NODE | {"model_servers": [{"grpc": "nowhere"}]}, "model_servers: 'nowhere' is no address"),
]


@pytest.mark.parametrize(("document", "says"), REFUSED)
def test_a_document_that_cannot_be_used_is_refused_on_one_line(
    start: Start, document: dict[str, Any], says: str
) -> None:
    _, err = (process := start(document)).communicate(timeout=WAIT)
    assert process.returncode == 2
    assert says in err.splitlines()[-1]


def test_a_model_that_was_changed_after_its_export_is_refused(start: Start, tmp_path: Path) -> None:
    (tmp_path / "files" / "m" / "1").mkdir(parents=True)
    (tmp_path / "files" / "m" / "1" / "saved_model.pb").write_text("another")
    files = {"m/1/saved_model.pb": "0" * 64}
    document = {"kind": "model-server", "models": ["m"], "folder": str(tmp_path / "files"), "files": files}
    _, err = (process := start(document)).communicate(timeout=WAIT)
    assert process.returncode == 1
    assert "saved_model.pb is not what was exported" in err.splitlines()[-1]


def test_until_eof_is_refused_if_the_document_comes_from_standard_input() -> None:
    command = [sys.executable, "-m", "cluster.process", "--config", "-", "--until-eof"]
    done = subprocess.run(command, cwd=ROOT, input="{}", capture_output=True, text=True, timeout=WAIT)
    assert (done.returncode, "give a FILE" in done.stderr) == (2, True)


def test_insecure_allows_an_address_beyond_this_machine_and_warns(start: Start) -> None:
    process = start(REGISTRY | {"bind": "0.0.0.0", "insecure": True})
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
    held = [np.ones(10 * 2**20, np.uint8) for _ in range(4)]  # leaves less room in the thread's heap than a tensor
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


def test_freed_memory_is_kept_if_a_tensor_has_its_own_heap() -> None:
    """A thread that makes tensors of 26 MB does not fault in 6,656 new pages for every tensor."""
    done = subprocess.run([sys.executable, "-c", KEEPING], cwd=ROOT, capture_output=True, text=True, timeout=WAIT)
    if "not here" in done.stderr:
        pytest.skip("this C library keeps no freed memory")
    assert int(done.stdout) < 1000, done.stderr
