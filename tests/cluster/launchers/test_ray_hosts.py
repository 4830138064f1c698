"""Hosts of a Ray cluster: which node each gets, real processes on two of them, every kind of end, and each error."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.hosts import Host
from cluster.launchers import ray_hosts
from cluster.launchers.ray_bridge import reason
from cluster.launchers.ray_nodes import Node, assign
from tests.cluster.launchers.ray_cluster import ADDRESSES, CLUSTER, RayCluster, ray_cluster
from tests.running import assert_gone
from tools.hosts import missing
from transports.errors import UsageError

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
needs_hosts = pytest.mark.skipif(bool(missing()), reason=missing())

EDGE, CLOUD = {"name": "edge"}, {"name": "cloud"}
HOSTS = ({"name": "edge", "labels": {"tier": "edge"}}, {"name": "cloud", "address": "10.77.0.3"})


@pytest.fixture(scope="module")
def rays() -> Iterator[RayCluster]:
    with ray_cluster({"cloud": {"OMP_NUM_THREADS": "3"}}) as made:
        yield made


# Which node each host gets.


def node(address: str, free: float = 4.0, here: bool = False, **labels: str) -> Node:
    return Node(identity=f"id-{address}", address=address, labels=labels, cpus=4.0, free=free, here=here)


ONE, TWO, TEN = node("10.0.0.1"), node("10.0.0.2"), node("10.0.0.10")
A, B = Host(name="a"), Host(name="b")
ASSIGNED = {
    "by address": ([TEN, TWO], [A, B], [TWO, TEN]),
    "the host with few choices first": (
        [node("1", tier="x"), node("2")],
        [A, Host(name="b", labels={"tier": "x"})],
        ["2", "1"],
    ),
    "three hosts that make room for each other": (
        [node("1", p="x"), node("2", p="x", q="y"), node("3", q="y")],
        [Host(name="a", labels={"p": "x"}), Host(name="b", labels={"q": "y"}), Host(name="c", address="2")],
        ["1", "3", "2"],
    ),
    "all labels": (
        [node("1", p="x"), node("2", p="x", q="y")],
        [Host(name="a", labels={"p": "x", "q": "y"})],
        ["2"],
    ),
    "its address": ([ONE, TWO], [Host(name="a", address="10.0.0.2")], [TWO]),
    "free ones are preferred": ([node("1", free=0.0), TWO], [A], [TWO]),
    "a busy one rather than none": ([node("1", free=0.0), node("2", free=0.0)], [A, B], ["1", "2"]),
    "other machines than this one are preferred": ([node("1", here=True), TWO], [A], [TWO]),
    "this machine rather than none": ([node("1", here=True), TWO], [A, B], ["1", TWO]),
    "this machine for the host of the client": (
        [ONE, node("2", here=True)],
        [A, Host(name="b", client=True)],
        [ONE, "2"],
    ),
}


@pytest.mark.parametrize("case", ASSIGNED)
def test_each_host_gets_a_node_of_its_own(case: str) -> None:
    nodes, hosts, expected = ASSIGNED[case]
    wanted = [node.address if isinstance(node, Node) else node for node in expected]
    assert [node.address for node in assign(hosts, nodes)] == wanted
    assert [node.address for node in assign(hosts, nodes[::-1])] == wanted


NOT_ASSIGNED = {
    "2 hosts, and a Ray cluster of 1 nodes: start one with `ray start --address=HEAD:PORT`": ([ONE], [A, B]),
    "host a: no node of the Ray cluster has its address 10.0.0.3; did you mean '10.0.0.2'?": (
        [ONE, TWO],
        [Host(name="a", address="10.0.0.3")],
    ),
    "host a: no node of the Ray cluster has the labels tier=moon: start one with "
    '`ray start --address=HEAD:PORT --labels "tier=moon"` (labels that nodes have: tier=edge)': (
        [ONE, node("2", tier="edge")],
        [Host(name="a", labels={"tier": "moon"})],
    ),
    "no node of the Ray cluster at 10.0.0.1 has the labels tier=moon: ": (
        [ONE],
        [Host(name="a", address="10.0.0.1", labels={"tier": "moon"})],
    ),
    "host a: no node for it has 5 CPUs; give it at most 4 threads": ([ONE], [Host(name="a", threads=5)]),
    "host a: it has client = true, but": ([ONE], [Host(name="a", client=True)]),
    "host b: other hosts need every node that it can use (10.0.0.1)": (
        [ONE, TWO],
        [Host(name="a", address="10.0.0.1"), Host(name="b", address="10.0.0.1")],
    ),
}


@pytest.mark.parametrize("text", NOT_ASSIGNED)
def test_a_host_without_a_node_is_named(text: str) -> None:
    nodes, hosts = NOT_ASSIGNED[text]
    with pytest.raises(UsageError) as caught:
        assign(hosts, nodes)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


# The address of the cluster.


def test_an_address_of_ray_client_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"--cluster ray: ray://x:10001 is an address of Ray Client.*ray:HOST:PORT"):
        ray_hosts.head("ray:ray://x:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://x:10001")
    with pytest.raises(UsageError, match="RAY_ADDRESS: ray://x:10001 is an address of Ray Client"):
        ray_hosts.head("ray")


def test_the_address_is_that_of_the_variable_or_found_by_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert ray_hosts.head("ray") == "auto"
    monkeypatch.setenv("RAY_ADDRESS", "local")
    with pytest.raises(UsageError, match="RAY_ADDRESS: 'local' is not HOST:PORT"):
        ray_hosts.head("ray")


def test_a_head_that_accepts_no_connection_is_named() -> None:
    with pytest.raises(UsageError, match=r"no Ray cluster answers at 127\.0\.0\.1:9 \(Connection refused\); start its"):
        ray_hosts.head("ray:127.0.0.1:9")


def test_without_ray_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"Ray is not installed; run pip install 'splitbench\[ray\]'"):
        ray_hosts.ways("ray", [A])


def test_other_versions_are_told_in_one_line() -> None:
    error = RuntimeError("Version mismatch: The cluster was started with:\n    Ray: 2.1\n    Python: 3.11.7\n")
    assert reason(error).endswith("Version mismatch: The cluster was started with: Ray: 2.1 Python: 3.11.7")


# Real processes.


def parts(ours: dict[str, list[psutil.Process]], part: str) -> list[psutil.Process]:
    return [process for found in ours.values() for process in found if part in " ".join(process.cmdline())]


def servers(ours: dict[str, list[psutil.Process]]) -> list[psutil.Process]:
    """The fork servers, without their children."""
    return [process for process in parts(ours, ".fork_server") if process.name().startswith("python")]


def variables(process: psutil.Process) -> dict[str, str]:
    lines = Path(f"/proc/{process.pid}/environ").read_text().split("\0")
    return dict(line.split("=", 1) for line in lines if "=" in line)


@needs_ray
@needs_hosts
@pytest.mark.slow
def test_processes_run_on_two_hosts_and_the_actors_have_no_tensorflow(rays: RayCluster) -> None:
    with rays.job(*HOSTS, silence=ray_hosts.SILENCE) as job:
        facts = job.facts()
        assert facts["hosts"] == {name: ADDRESSES[name] for name in ("edge", "cloud")}
        assert facts["answers"] == ["holders", "holders"]
        ours = rays.ours()
        assert {name: len(found) for name, found in ours.items()} == {"head": 2, "edge": 4, "cloud": 4}
        for actor in parts(ours, "ray::Actor"):
            assert "tensorflow" not in Path(f"/proc/{actor.pid}/maps").read_text()
        for host, threads in (("edge", None), ("cloud", "3")):
            (server,) = servers({host: ours[host]})
            assert variables(server).get("OMP_NUM_THREADS") == threads
            assert not [name for name in variables(server) if name.startswith("RAY_")]
        job.end()
        assert_gone([process for found in ours.values() for process in found])


Kill = Callable[[int, dict[str, list[psutil.Process]]], None]
KILLED: dict[str, tuple[Kill, str]] = {
    "client": (lambda client, ours: psutil.Process(client).kill(), ""),
    "bridge": (
        lambda client, ours: parts(ours, "ray_bridge")[0].kill(),
        "host (edge|cloud): its launcher was ended by SIGKILL$",
    ),
    "actor": (
        lambda client, ours: parts(ours, "ray::Actor")[0].kill(),
        "its launcher ended with status 1: Ray has lost the actor of the fork server: The actor is dead because",
    ),
    "fork server": (
        lambda client, ours: servers(ours)[0].kill(),
        "its launcher ended with status 137: the fork server was ended by SIGKILL$",
    ),
    "nothing": (lambda client, ours: None, ""),
}


@needs_ray
@needs_hosts
@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("killed", KILLED)
def test_nothing_is_left_on_any_host(killed: str, rays: RayCluster, tmp_path: Path) -> None:
    kill, text = KILLED[killed]
    shared = set(Path("/dev/shm").iterdir())
    with rays.job(*HOSTS, TMPDIR=str(tmp_path)) as job:
        facts = job.facts()
        ours = rays.ours()
        family = [process for found in ours.values() for process in found]
        assert len(family) == 10
        kill(job.process.pid, ours)
        if text:
            assert re.search(text, job.failure())
        job.end()
        assert_gone(family)
    assert not [folder for folder in facts["folders"].values() if Path(folder).exists()]
    assert list(tmp_path.iterdir()) == []
    assert set(Path("/dev/shm").iterdir()) <= shared


# Errors of a real cluster.

ERRORS: dict[str, tuple[list[dict[str, Any]], dict[str, Any], str]] = {
    "a label": (
        [{"name": "a", "labels": {"tier": "moon"}}],
        {},
        "host a: no node of the Ray cluster has the labels tier=moon: start one with `ray start --address=HEAD:PORT "
        '--labels "tier=moon"` (labels that nodes have: tier=cloud, tier=edge, tier=head)',
    ),
    "another token": (
        [EDGE],
        {"RAY_AUTH_TOKEN": 32 * "cd"},
        f"--cluster {CLUSTER}: it demands a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to that of",
    ),
    "no token": ([EDGE], {"RAY_AUTH_MODE": None, "RAY_AUTH_TOKEN": None}, "it demands a token"),
    "no cluster": ([EDGE], {"cluster": "ray", "PRIVATE": True}, "--cluster ray: no Ray cluster runs here"),
    "no head": ([EDGE], {"cluster": "ray:10.77.0.2:1"}, "no Ray cluster answers at 10.77.0.2:1 (Connection refused)"),
    "no node": ([EDGE], {"PRIVATE": True}, "this machine is no node of it: join it with `ray start --address"),
    "no Python": (
        [EDGE | {"python": "/no/python"}],
        {},
        "host edge: its launcher ended with status 127: sh: 1: /no/python: not found; give the path of its Python",
    ),
    "no package": (
        [EDGE | {"python": f"{sys.base_prefix}/bin/python3"}],
        {},
        "No module named 'cluster'); install this package there",
    ),
}


@needs_ray
@needs_hosts
@pytest.mark.slow
@pytest.mark.parametrize("case", ERRORS)
def test_an_error_says_what_to_do(case: str, rays: RayCluster) -> None:
    hosts, options, text = ERRORS[case]
    if options.get("PRIVATE"):  # Ray looks for its daemons among the processes of the machine
        options = options | {"inside": ("unshare", "--pid", "--fork", "--mount-proc"), "PRIVATE": None}
    assert text in rays.said(*hosts, **options)


@needs_ray
@needs_hosts
@pytest.mark.slow
def test_a_host_that_is_cut_off_is_named_and_ends_its_processes(rays: RayCluster) -> None:
    """The last test: Ray gives up such a node."""
    with rays.job(*HOSTS, silence=8.0) as job:
        job.facts()
        far = [process for process in rays.ours()["cloud"] if "fork_server" in str(process.cmdline())]
        rays.net.cut("cloud")
        assert "host cloud: its launcher ended with status 2: the connection is lost" in job.failure()
        assert_gone(far)
