"""Whole runs over ssh on test hosts: results, protection, and a clean end, whatever ends a run."""

from __future__ import annotations

import contextlib
import getpass
import json
import re
import signal
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.scratch import SHORT
from experiments.reports import report
from experiments.store import environment, files, samples
from tests.experiments.common import tables_of
from tests.lab import ADDRESSES, CLIENT, SERVERS, Lab, lab, needs_ssh
from tests.running import Run, assert_gone

pytestmark = [needs_ssh, pytest.mark.slow]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lab]:
    with lab() as made:
        yield made


def started(hosts: Lab, out: Path, model: Path, *words: object, runs: int = 1_000_000) -> Run:
    """A run on both hosts, started on the client's host."""
    common = ("--model", model, "--mode", "submodel", "--servers", 2, "--runs", runs, "--out", out)
    given = words if "--hosts" in words else (*hosts.flags(), *words)
    return Run(*given, *common, within=hosts.client)


def measuring(hosts: Lab, going: Run) -> list[psutil.Process]:
    """The processes of a run, on the hosts and below the client, once the first request has been measured."""
    going.wait_for("requests")
    found = hosts.remote()
    assert {process.name() for process in found} >= {"registry", "node-0", "node-1"}
    return [*found, *psutil.Process(going.process.pid).children(recursive=True)]


def node(name: str, processes: list[psutil.Process]) -> psutil.Process:
    return next(process for process in processes if process.name() == name)


STRANGER = """
import contextlib, json, socket, ssl, sys
address, ports, greeting, enough, folder = *map(json.loads, sys.argv[1:5]), sys.argv[5]

def context(folder):
    made = ssl.create_default_context()
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    made.set_alpn_protocols(["h2"])
    if folder:
        made.load_cert_chain(f"{folder}/tls_cert", f"{folder}/tls_key")
    return made.wrap_socket

def answer(port, wrap):
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError), socket.create_connection((address, port), 20) as plain:
        with wrap(plain) as connection:
            connection.sendall(bytes.fromhex(greeting))
            while len(found) < enough and (more := connection.recv(enough)):
                found += more
    return found.hex()

wraps = [lambda plain: plain, context(""), *([context(folder)] if folder else [])]
print(json.dumps([[answer(port, wrap) for wrap in wraps] for port in ports]))
"""
"""Connects to each port without TLS, with TLS, and with TLS and a certificate; prints the answers."""
HTTP2, FRAME = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0", 9
"""The beginning of an HTTP/2 connection, and the number of bytes of the shortest answer."""
ZMTP, MECHANISM = b"\xff" + bytes(8) + b"\x7f\3", 32
"""The beginning of a ZeroMQ connection, and the number of bytes of the answer; the last 20 name the mechanism."""


def answers(hosts: Lab, name: str, greeting: bytes, enough: int, folder: Path | str = "") -> list[list[bytes]]:
    """What each port of a host's processes answers to a stranger on the client's host: plain, over TLS, and over TLS
    with the certificate in `folder`."""
    ports = hosts.ports(name)
    assert ports
    words = map(json.dumps, (ADDRESSES[name], ports, greeting.hex(), enough))
    command = [sys.executable, "-I", "-c", STRANGER, *words, str(folder)]
    done = hosts.net.run(CLIENT, command, capture_output=True, text=True, check=True)
    return [[bytes.fromhex(text) for text in found] for found in json.loads(done.stdout)]


def secrets(processes: list[psutil.Process]) -> Path:
    """The folder with the certificate of a run."""
    return next(path for process in processes for path in SHORT.glob(f"splitbench-{process.pid}-*/secrets"))


def cut_for(hosts: Lab, name: str, seconds: float) -> None:
    """Pull a host's cable, and mend it once an attempt to connect to the host has failed for `seconds`."""
    connect = "import socket, sys; socket.create_connection((sys.argv[1], 22), float(sys.argv[2]))"
    hosts.net.cut(name)
    command = [sys.executable, "-I", "-S", "-c", connect, ADDRESSES[name], str(seconds)]
    with contextlib.ExitStack() as stack:
        stack.callback(hosts.net.mend, name)
        assert hosts.net.run(CLIENT, command, capture_output=True).returncode == 1


RUNS = 100


@dataclass(frozen=True)
class Ended:
    """A run that lost a host's cable for a while and ended in order."""

    out: Path
    answers: dict[str, list[list[bytes]]]
    """Host -> for each port, the answers of its process to a stranger."""

    @property
    def record(self) -> dict[str, Any]:
        return environment.read(self.out)


@pytest.fixture(scope="module")
def ended(hosts: Lab, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Ended:
    out = tmp_path_factory.mktemp("run") / "out"
    with started(hosts, out, model, "--transport", "grpc", runs=RUNS) as going:
        processes = measuring(hosts, going)
        cut_for(hosts, "cloud", 2.5)
        found = {name: answers(hosts, name, HTTP2, FRAME, secrets(processes)) for name in SERVERS}
        assert going.process.poll() is None
        assert going.finish()[0] == 0, going.lines
    hosts.assert_nothing_left(processes)
    return Ended(out, found)


def test_a_host_that_is_cut_off_for_a_while_only_costs_time(ended: Ended) -> None:
    frame = samples.read(ended.out)
    assert frame.groupby("transport").size().to_dict() == {"grpc": RUNS, "none": RUNS}
    assert frame["start"].diff().max() > 2, "what stalled was a request, or a question to nodes between two blocks"
    assert ended.record["complete"] is True


def test_every_listener_answers_only_over_tls_to_those_with_the_certificate(ended: Ended) -> None:
    assert [len(found) for found in ended.answers.values()] == [2, 1], "registry and node; node"
    for plain, stranger, known in (found for ports in ended.answers.values() for found in ports):
        assert plain[:1] in (b"", b"\x15"), "nothing, or an alert of TLS"
        assert stranger == b""
        assert known[3:4] == b"\4", "the settings of HTTP/2"


def test_the_report_names_hosts_ways_and_nodes(ended: Ended) -> None:
    text = (ended.out / files.REPORT).read_text()
    assert "Processes ran over ssh, under mutual TLS." in text
    tables = {found[0][0]: found for found in tables_of(text)}
    assert [row[:2] for row in tables["Host"][1:]] == [["edge", "0"], ["cloud", "1"]]
    assert {tuple(row[:2]) for row in tables["From"][1:]} == {
        ("client", "edge"),
        ("client", "cloud"),
        ("edge", "cloud"),
        ("cloud", "edge"),
    }
    details = (ended.out / files.CELLS).read_text()
    nodes = next(found for found in tables_of(details) if found[0][:3] == ["Cell", "Node", "Host"])
    assert [row[1:3] for row in nodes[1:]] == [["node-0", "edge"], ["node-1", "cloud"]]


def test_the_record_has_the_facts_of_each_host(ended: Ended) -> None:
    machines = ended.record["machines"]
    assert machines["cluster"] == "ssh"
    for name in SERVERS:
        host = machines["hosts"][name]
        assert host["processor"]["model"]
        assert host["versions"]["tensorflow"] == ended.record["versions"]["tensorflow"]
        assert abs(host["clock_offset"]) <= host["clock_uncertainty"] < 1
    for when in ("before", "after"):
        assert len(machines["ways"][when]) == 4
        assert all(0 < way["rtt"] < 1 < way["bandwidth"] for way in machines["ways"][when])


def test_results_do_not_say_where_the_machines_are(ended: Ended, hosts: Lab) -> None:
    private = [*ADDRESSES.values(), str(hosts.folder), str(Path.home()), sys.executable, socket.gethostname()]
    for path in ended.out.iterdir():
        text = path.read_text()
        assert not [word for word in private if word in text], path.name
        if path.suffix == ".json":
            assert not re.search(rf"\b{re.escape(getpass.getuser())}\b", text), path.name
            assert not re.search(r'"(ssh|python|address|bind)": "[/@]', text), path.name


def test_a_killed_node_ends_the_run_with_its_host(hosts: Lab, model: Path, tmp_path: Path) -> None:
    """Over ZeroMQ, whose servers speak only CURVE, and only with clients that they know."""
    with started(hosts, tmp_path / "out", model, "--transport", "zmq") as going:
        processes = measuring(hosts, going)
        for name in SERVERS:
            for plain, _ in answers(hosts, name, ZMTP, MECHANISM):
                assert plain[12:].rstrip(b"\0") == b"CURVE"
        node("node-1", processes).kill()
        status, last = going.finish()
    assert status == 1
    assert last.startswith("error: node-1 on host cloud was ended by SIGKILL")
    hosts.assert_nothing_left(processes)
    assert len(samples.read(tmp_path / "out")) >= 1
    assert "node-1 on host cloud was ended by SIGKILL" in environment.read(tmp_path / "out")["failure"]


def test_a_killed_client_leaves_nothing_on_hosts(hosts: Lab, model: Path, tmp_path: Path) -> None:
    with started(hosts, tmp_path / "out", model, "--transport", "grpc", "--insecure") as going:
        processes = measuring(hosts, going)
        assert all(plain[3:4] == b"\4" for plain, _ in answers(hosts, "edge", HTTP2, FRAME)), "HTTP/2 without TLS"
        going.process.kill()
        hosts.assert_nothing_left(processes)
    text = report.build(tmp_path / "out").read_text()
    assert "INCOMPLETE" in text
    assert "Processes ran over ssh, without TLS (--insecure)." in text


def test_ctrl_c_ends_a_run_that_records_another_version(hosts: Lab, model: Path, tmp_path: Path) -> None:
    """`splitbench` on cloud reports version 9.9."""
    tables = (hosts.table("edge", servers=[0]), hosts.table("cloud", servers=[1], python=hosts.other_version()))
    words = (*hosts.flags(*tables), "--transport", "grpc", "--versions", "any")
    with started(hosts, tmp_path / "out", model, *words) as going:
        processes = measuring(hosts, going)
        going.process.send_signal(signal.SIGINT)
        assert going.finish() == (130, "error: interrupted")
    hosts.assert_nothing_left(processes)
    found = environment.read(tmp_path / "out")["machines"]["hosts"]
    assert [found[name]["versions"]["splitbench"] == "9.9" for name in SERVERS] == [False, True]
    assert len(samples.read(tmp_path / "out")) >= 1


def test_a_host_that_loses_power_ends_the_run_with_its_name(hosts: Lab, model: Path, tmp_path: Path) -> None:
    """The user's ssh settings come first: with these ssh notices within 3 s. The host is lost, so this test is last."""
    flags = hosts.flags()
    flags[-1] += " -o ServerAliveInterval=1 -o ServerAliveCountMax=2"
    with started(hosts, tmp_path / "out", model, *flags, "--transport", "grpc", "--timeout", 5) as going:
        processes = measuring(hosts, going)
        hosts.net.power_off("cloud")
        status, last = going.finish()
    assert status == 1
    assert last.startswith("error: host cloud: its launcher ended with status 255")
    assert_gone([*processes, *hosts.remote()])
    assert not hosts.remote()
    assert len(samples.read(tmp_path / "out")) >= 1
    assert "host cloud" in environment.read(tmp_path / "out")["failure"]
