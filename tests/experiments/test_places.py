"""Which servers and links a cell has, and on which hosts: everything that is known before a process starts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from cluster import resource_limits
from cluster.hosts import Host
from cluster.launch import Cluster, Settings
from cluster.launchers import LocalLauncher
from experiments.measure.prepare import _partition_key
from experiments.spec import machines
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.flags import parse
from transports.errors import UsageError

TABLES = """
[[host]]
name = "laptop"
client = true
[[host]]
name = "pi-1"
labels = { tier = "edge" }
servers = [0, 2]
[[host]]
name = "pi-2"
labels = { tier = "edge" }
servers = [1]
"""
SUBMODEL = ("--mode", "submodel", "--transport", "tcp")


def experiment(*words: str) -> Experiment:
    return parse([*SUBMODEL, *words])[0]


def in_file(tmp_path: Path, text: str, *words: str) -> Experiment:
    (tmp_path / "hosts.toml").write_text(text)
    return experiment("--hosts", str(tmp_path / "hosts.toml"), *words)


def servers(found: Experiment) -> dict[str, list[int]]:
    return {cell.on: list(machines.servers(found, cell)) for cell in found.cells}


def test_a_cell_uses_the_servers_of_its_hosts_in_their_order(tmp_path: Path) -> None:
    found = in_file(tmp_path, TABLES, "--servers", "1", "--on", "edge,pi-2,pi-2 + pi-1")
    assert servers(found) == {"edge": [0], "pi-2": [1], "pi-2+pi-1": [1]}
    found = in_file(tmp_path, TABLES, "--servers", "3", "--on", "edge,pi-2+edge")
    assert servers(found) == {"edge": [0, 2, 1], "pi-2+edge": [1, 0, 2]}


def test_a_cell_without_hosts_uses_the_first_servers() -> None:
    assert servers(experiment("--hosts", "a:1,b:3", "--servers", "2")) == {"": [0, 1]}


@pytest.mark.parametrize(
    "words",
    [
        ("--hosts", "a,b,c,d", "--servers", "1", "--on", "b,d"),
        ("--hosts", "a,b", "--servers", "2"),
        ("--hosts", "a:1,b:1,c", "--servers", "2"),
        ("--hosts", "a,b,c", "--servers", "2", "--on", "c+a,b+c"),
    ],
)
def test_nodes_run_on_the_hosts_that_the_cells_say(words: tuple[str, ...]) -> None:
    """The number of nodes that start is the number that the cells use, however many hosts there are."""
    found = experiment(*words)
    used = [server for cell in found.cells for server in machines.servers(found, cell)]
    settings = Settings(("tcp",), max(used) + 1, Path(), 1, hosts=machines.placed(found, found.machines), replicas=2)
    cluster, held = Cluster(settings, LocalLauncher()), machines.held(found)
    assert all(cluster.host_of[f"node-{server}"] == held[server] for server in used)
    for cell in found.cells:
        for server in machines.servers(found, cell) if cell.on else ():
            assert cluster.host_of[f"node-{server}"] in cell.on.split("+")


def test_cells_over_none_need_no_servers_on_hosts() -> None:
    found = experiment("--hosts", "a:1,b:1", "--servers", "2")
    more = Cell(transport="none", mode="submodel", servers=8)
    mixed = Experiment(cells=(*found.cells, more), machines=found.machines)
    machines.check(mixed)
    assert machines.held(mixed) == {0: "a", 1: "b"}


def test_different_hosts_are_different_partitions() -> None:
    names = ("a_b", "a-b", "a b", "a/b", "a.b", "edge+cloud", "é")
    keys = {_partition_key(Cell(mode="submodel", on=on)) for on in names}
    assert len(keys) == len(names)
    assert all(word.isascii() and "/" not in word and " " not in word for key in keys for word in key)


REFUSED: Mapping[str, tuple[tuple[str, ...], str]] = {
    "no hosts": (("--on", "edge"), "--on edge: there are no hosts; give them with --hosts"),
    "an unknown host": (("--hosts", "edge:2", "--on", "egde", "--servers", "2"), "no host 'egde'; did you mean 'edge'"),
    "too few servers": (("--hosts", "a:1,b:2", "--on", "a", "--servers", "2"), "--on a: these hosts hold 1 servers"),
    "a host twice": (("--hosts", "a:1,b:1", "--on", "a+a", "--servers", "2"), "--on a+a: these hosts hold 1 servers"),
    "a server on no host": (("--hosts", "a:1,b:1", "--servers", "3"), "server 2 is on no host"),
    "an unknown end": (
        ("--hosts", "edge:2", "--servers", "2", "--link", "edge<->clod rtt:1ms"),
        "no host 'clod'",
    ),
    "an end that is no server": (("--servers", "2", "--link", "client<->server-2 rtt:1ms"), "no host 'server-2'"),
    "one host": (
        ("--hosts", "edge:2", "--servers", "2", "--link", "edge<->edge rtt:1ms"),
        "a link joins two different hosts",
    ),
    "two links": (
        (*("--servers", "2", "--link", "client<->server-0 rtt:1ms"), *("--link", "server-0->client delay:1ms")),
        "server-0->client has a link already; give one for each direction",
    ),
    "unix": (
        ("--transport", "unix", "--servers", "2", "--link", "client<->server-0 rtt:1ms"),
        "transport unix has none",
    ),
    "shm": (("--transport", "shm", "--link", "client<->server-0 rtt:1ms"), "transport shm has none"),
    "a kill": (
        ("--servers", "2", "--link", "client<->server-0 rtt:1ms", "--kill", "node-0@1", "--repeats", "5"),
        "--kill: the node that replaces the killed one is behind no link",
    ),
    "a word": (("--servers", "2", "--link", "client<->server-0 ttr:1ms"), "did you mean 'rtt'"),
    "a unit": (("--servers", "2", "--link", "client<->server-0 rtt:1min"), "one of the units s, ms, us"),
    "loss": (("--servers", "2", "--link", "client<->server-0 rtt:1ms,loss:1%"), "loss cannot be imposed"),
    "a killed node without stages": (
        (*("--hosts", "a:1,b:2", "--on", "b", "--servers", "2"), *("--kill", "node-0@1", "--repeats", "5")),
        "node-0 holds nothing for cell tcp/submodel/nested/eager/raw/b1/s2/repeats=5/on=b; valid: node-1, node-2",
    ),
    "no node of all cells": (
        (*("--hosts", "a:1,b:1", "--on", "a,b", "--servers", "1"), *("--kill", "node-0@1", "--repeats", "5")),
        "valid: none, since the cells have no node in common",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_refused(case: str) -> None:
    words, hint = REFUSED[case]
    with pytest.raises(UsageError) as refused:
        parse(["--mode", "submodel", *([] if "--transport" in words else ["--transport", "tcp"]), *words])
    assert hint in str(refused.value)


def test_a_kill_may_hit_a_node_behind_those_of_its_cell() -> None:
    words = ("--hosts", "a:1,b:2", "--on", "b", "--servers", "2", "--kill", "node-2@1", "--repeats", "5")
    assert experiment(*words).kill == "node-2@1"


def directions(found: Experiment) -> list[set[tuple[str, str]]]:
    return [set(machines.links(found, cell)) for cell in found.cells]


def test_the_ends_of_links_are_hosts_labels_and_the_client(tmp_path: Path) -> None:
    found = in_file(tmp_path, TABLES, "--servers", "3", "--link", "client<->edge rtt:1ms")
    assert directions(found) == [
        {("laptop", "pi-1"), ("pi-1", "laptop"), ("laptop", "pi-2"), ("pi-2", "laptop")},
    ]
    assert machines.here(found) == "laptop"
    found = in_file(tmp_path, TABLES, "--servers", "3", "--link", "pi-1->edge delay:1ms")
    assert directions(found) == [{("pi-1", "pi-2")}]


def test_without_hosts_each_server_is_one() -> None:
    found = experiment(
        "--servers", "3", "--link", "client->server-2 delay:1ms", "--link", "server-0<->server-1 rtt:4ms"
    )
    assert directions(found) == [{("client", "server-2"), ("server-0", "server-1"), ("server-1", "server-0")}]
    delays = {ends: link.delay for ends, link in machines.links(found, found.cells[0]).items()}
    assert delays == {("client", "server-2"): 0.001, ("server-0", "server-1"): 0.002, ("server-1", "server-0"): 0.002}
    assert machines.held(found) == {0: "server-0", 1: "server-1", 2: "server-2"}


def test_one_text_of_links_with_commas_is_one_value_and_equal_texts_are_one_cell(tmp_path: Path) -> None:
    (tmp_path / "spec.toml").write_text(
        'transport = ["none", "tcp"]\nmode = "submodel"\nservers = 2\n'
        'link = ["", "client<->server-0 rtt:20ms,bandwidth:50Mbit", "client<->server-0  bandwidth:50mbit, rtt:0.02s"]'
    )
    found = parse(["--spec", str(tmp_path / "spec.toml")])[0]
    assert [(cell.transport, cell.link) for cell in found.cells] == [
        ("none", ""),
        ("tcp", ""),
        ("tcp", "client<->server-0 rtt:20ms,bandwidth:50Mbit"),
    ]


LIMITED: Mapping[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "too little of a core": ({"cpu": 0.001}, (), "host a: cpu = 0.001: give at least 0.01 of a core"),
    "no such core": ({"cores": [999]}, (), "host a: no core 999 here; valid: 0"),
    "pinned twice": ({"cores": [0]}, ("--pin", "on"), "--pin: host a has cores; leave one of the two out"),
    "too fast": ({"slowdown": 0.5}, (), "Expected `float` >= 1.0 - at `$.host[0].slowdown`"),
    "slow model servers": ({"slowdown": 2}, ("--engine", "tfserving"), "host a: slowdown concerns the stages of nodes"),
    "a runtime": ({"memory": 2**33}, ("--transport", "tcp,sockets", "--insecure"), "transport sockets executes the"),
}


@pytest.mark.parametrize("case", LIMITED)
def test_limits_that_would_not_hold_are_refused(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, words, hint = LIMITED[case]
    monkeypatch.setattr(resource_limits, "check", lambda limits: None)  # independent of what this machine can limit
    (tmp_path / "hosts.toml").write_text(
        '[[host]]\nname = "a"\n' + "".join(f"{name} = {value}\n" for name, value in host.items())
    )
    given = words if "--transport" in words else (*SUBMODEL, *words)
    with pytest.raises(UsageError) as refused:
        parse([*given, "--servers", "2", "--hosts", str(tmp_path / "hosts.toml")])
    assert hint in str(refused.value)


def test_a_machine_without_control_groups_is_told_so_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resource_limits, "SYSTEM", tmp_path)
    check = resource_limits.check
    monkeypatch.setattr(resource_limits, "check", lambda limits: check(limits, tmp_path))
    with pytest.raises(UsageError, match=r"host a: cpu = 0\.5: no control group can do so"):
        machines.check(Experiment(cells=(Cell(transport="tcp"),), machines=(Host(name="a", cpu=0.5),)))
