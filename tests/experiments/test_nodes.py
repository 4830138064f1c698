"""nodes.csv and the sections on machines: figures of each node, hosts, and each kind of link."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from cluster.hosts import Host
from experiments.reports import machines, report
from experiments.reports.labels import Settings
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.settings import from_record, to_record
from experiments.store import environment, files, nodes, samples
from experiments.store.nodes import NodeBlock
from experiments.store.statistics import summarise
from tests.experiments.common import frame, tables_of
from tests.experiments.conftest import Maker
from transports.errors import UsageError

LINK = "client<->edge rtt:20ms"
OTHER = "client<->edge rtt:40ms,bandwidth:5Mbit"
PLAIN = Cell(transport="grpc", mode="submodel", servers=2)
LINKED = Cell(transport="tcp", mode="submodel", servers=2, on="edge+cloud", link=LINK)
SLOW = Cell(transport="tcp", mode="submodel", servers=2, on="edge+cloud", link=OTHER)
HOSTS = {
    "edge": {"servers": [0], "labels": {"tier": "near"}, "threads": 1, "cores": [0, 1], "cpu": 0.5, "memory": 1000},
    "cloud": {"servers": [1], "labels": {}, "threads": 0, "cores": [], "cpu": 0.0, "memory": 0},
}
NOTHING = pd.DataFrame()


def block(cell: Cell, number: int, node: str, cpu: float, peak: int, joules: float = math.nan) -> NodeBlock:
    return NodeBlock(cell, number, node, "edge", 4, cpu, peak, 4_000_000, 400_000, joules)


def write(folder: Path) -> None:
    with nodes.writer(folder) as writer:
        for row in (block(LINKED, 0, "node-0", 0.2, 7_000_000, 4.0), block(LINKED, 1, "node-0", 0.6, 9_000_000, 6.0)):
            writer.append(row)
        writer.append(block(SLOW, 2, "node-1", 0.0, 5_000_000))


def test_what_was_written_is_read_and_summed_by_request(tmp_path: Path) -> None:
    write(tmp_path)
    used = nodes.read(tmp_path)
    assert tuple(used.columns) == nodes.COLUMNS
    found = nodes.by_node(used)
    assert found.to_dict("records") == [
        {
            "cell": LINKED.name,
            "node": "node-0",
            "host": "edge",
            "cpu_seconds": pytest.approx(0.1),
            "received_bytes": 1e6,
            "sent_bytes": 1e5,
            "host_joules": pytest.approx(1.25),
            "peak_bytes": 9_000_000,
        },
        {
            "cell": SLOW.name,
            "node": "node-1",
            "host": "edge",
            "cpu_seconds": 0.0,
            "received_bytes": 1e6,
            "sent_bytes": 1e5,
            "host_joules": pytest.approx(math.nan, nan_ok=True),
            "peak_bytes": 5_000_000,
        },
    ]


def test_a_run_without_the_file_has_no_nodes(tmp_path: Path) -> None:
    used = nodes.read(tmp_path)
    assert used.empty
    assert tuple(used.columns) == nodes.COLUMNS
    assert machines.sections({}, Experiment(cells=(PLAIN,)), used, NOTHING) == [[], [], []]


@pytest.mark.parametrize(("old", "new"), [("node-0", ""), (",4,", ",four,"), ("cpu_seconds", "cpu"), (",4,", ",4.5,")])
def test_another_table_is_refused(old: str, new: str, tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / files.NODES
    path.write_text(path.read_text().replace(old, new, 1))
    if old == "node-0":  # any text is a name, also the empty text
        assert nodes.read(tmp_path)["node"][0] == ""
        return
    with pytest.raises(UsageError, match=files.NODES):
        nodes.read(tmp_path)


def test_a_row_that_a_killed_run_left_is_dropped(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / files.NODES
    path.write_text(path.read_text()[:-5])
    assert len(nodes.read(tmp_path)) == 2


def sections(record: Mapping[str, Any], *cells: Cell, **more: Any) -> list[str]:
    used, summary = more.pop("used", NOTHING), more.pop("summary", NOTHING)
    found = machines.sections({"machines": record}, Experiment(cells=cells, **more), used, summary)
    return ["\n".join(section) for section in found]


def test_the_parts_of_this_machine_are_hosts() -> None:
    hosts, links, used = sections({"cluster": "local", "hosts": HOSTS, "ways": {}}, PLAIN)
    assert (links, used) == ("", "")
    assert "All hosts are this machine." in hosts
    ((header, edge, cloud),) = tables_of(hosts)
    assert header == ["Host", "Servers", "Labels", "Limits"]
    assert edge == ["edge", "0", "tier near", "threads 1, cores [0, 1], cpu 0.5, memory 1000"]
    assert cloud == ["cloud", "1", "—", "none"]


def test_hosts_that_share_the_servers_say_so() -> None:
    hosts = {name: {**host, "servers": []} for name, host in HOSTS.items()}
    table = tables_of(sections({"cluster": "local", "hosts": hosts, "ways": {}}, PLAIN)[0])[0]
    assert [row[1] for row in table] == ["Servers", "in blocks", "in blocks"]


def test_other_machines_have_facts_and_clocks() -> None:
    facts = {
        "processor": {"model": "A | B", "affinity": 4},
        "memory_bytes": 8e9,
        "system": {"kernel": "6.1"},
        "load": [0.5, 1, 1],
        "clock_offset": -0.0015,
        "clock_uncertainty": 0.0002,
    }
    record = {"cluster": "ssh", "hosts": {"edge": HOSTS["edge"] | facts, "cloud": HOSTS["cloud"]}, "ways": {}}
    text = sections(record, PLAIN)[0]
    assert "Processes ran over ssh, under mutual TLS." in text
    ((header, edge, cloud),) = tables_of(text)
    assert header[4:] == ["Processor", "Cores", "Memory (GB)", "Kernel", "Load", "Clock (ms)"]
    assert edge[4:] == ["A | B", "4", "8.00", "6.1", "0.5", "-1.50 +- 0.20"]
    assert cloud[4:] == ["—"] * 6
    assert "without TLS (--insecure)" in sections(record, PLAIN, insecure="on")[0]


WAYS = {
    "before": [
        {"from": "client", "to": "edge", "rtt": 0.0201, "bandwidth": 5e7},
        {"from": "edge", "to": "cloud", "rtt": 0.001, "bandwidth": 1e9},
    ],
    "after": [{"from": "client", "to": "edge", "rtt": 0.0202, "bandwidth": 4.9e7}],
}
KINDS: Mapping[str, tuple[dict[str, Any], Cell, str]] = {
    "emulated": ({}, LINKED, "**Emulated**: a relay"),
    "emulated between machines": ({"ways": WAYS}, LINKED, "**Emulated**: a relay"),
    "kernel": ({"ways": WAYS, "shaped": "netem 20ms"}, PLAIN, "of one machine: netem 20ms."),
    "real": ({"ways": WAYS}, PLAIN, "**Real**: nothing was imposed"),
}


@pytest.mark.parametrize("case", KINDS)
def test_each_kind_of_link_says_what_it_is(case: str) -> None:
    more, cell, words = KINDS[case]
    text = sections({"cluster": "ssh", "hosts": HOSTS, "ways": {}} | more, cell)[1]
    assert words in text
    assert (f"- `{LINK}`" in text) == bool(cell.link)
    if "ways" in more:
        ((header, first, second),) = tables_of(text)
        assert header == ["From", "To", "Round trip (ms)", "after", "Bandwidth (Mbit/s)", "after"]
        assert first == ["client", "edge", "20.1", "20.2", "50.0", "49.0"]
        assert second == ["edge", "cloud", "1.00", "—", "1000", "—"]
    else:
        assert tables_of(text) == []


def test_the_nodes_of_each_cell_are_named_as_elsewhere(tmp_path: Path) -> None:
    write(tmp_path)
    summary = summarise(frame(tmp_path, {cell: [1.0] * 3 for cell in (LINKED, SLOW)}), 0)
    text = sections({}, LINKED, SLOW, used=nodes.read(tmp_path), summary=summary)[2]
    ((header, first, second),) = tables_of(text)
    assert header[:7] == ["Cell", "Node", "Host", "CPU (s)", "Received (MB)", "Sent (MB)", "Peak memory (MB)"]
    assert header[7:] == ["Energy of the host (J)"]
    assert machines.COUNTED in text
    by_link = {"TCP, link 1": LINK, "TCP, link 2": OTHER}
    settings = Settings([LINKED, SLOW])
    assert {settings.label(cell): cell.link for cell in (LINKED, SLOW)} == by_link
    assert first == ["TCP, link 1", "node-0", "edge", "0.100", "1.000", "0.1000", "9.00", "1.25"]
    assert second == ["TCP, link 2", "node-1", "edge", "0", "1.000", "0.1000", "5.00", "—"]
    assert "- link 1: client\\<-\\>edge rtt:20ms\n- link 2: client\\<-\\>edge rtt:40ms,bandwidth:5Mbit" in text


def test_a_kernel_that_counts_no_energy_is_told_and_older_files_are_read(tmp_path: Path) -> None:
    with nodes.writer(tmp_path) as writer:
        writer.append(block(LINKED, 0, "node-0", 0.2, 7_000_000))
    path = tmp_path / files.NODES
    older = "\n".join(line.rpartition(",")[0] for line in path.read_text().splitlines()) + "\n"
    assert "host_joules" not in older
    path.write_text(older)
    used = nodes.read(tmp_path)
    assert used["host_joules"].isna().all()
    summary = summarise(frame(tmp_path, {LINKED: [1.0] * 3}), 0)
    text = sections({}, LINKED, used=used, summary=summary)[2]
    assert machines.NOT_COUNTED in text
    assert "Energy" not in tables_of(text)[0][0]


def test_labels_leave_out_what_a_cell_has_not() -> None:
    settings = Settings([PLAIN, LINKED])
    assert [settings.label(cell) for cell in (PLAIN, LINKED)] == ["gRPC", "TCP, on edge+cloud, link 1"]
    assert settings.legend() == [f"link 1: {LINK}"]
    assert Settings([LINKED]).constant.endswith("on edge+cloud, link 1")
    assert "link" not in Settings([PLAIN]).constant + Settings([PLAIN]).label(PLAIN)


def test_samples_and_records_of_an_earlier_version_have_no_hosts_and_links(make_results: Maker) -> None:
    folder = make_results([PLAIN])
    written = report.build(folder).read_text()
    path = folder / files.SAMPLES
    table = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns=["on", "link", "label"])
    path.write_text(table.to_csv(index=False, lineterminator=os.linesep))
    record = environment.read(folder)
    for name in ("on", "link", "label"):
        for cell in record["experiment"]["cells"]:
            del cell[name]
    for name in ("cluster", "hosts", "ssh", "versions", "machines"):
        del record["experiment"][name]
    environment.update(folder, experiment=record["experiment"])
    assert set(samples.read(folder)["link"]) == {""}
    assert report.build(folder).read_text() == written


def test_a_record_holds_the_hosts() -> None:
    hosts = (Host(name="edge", servers=(0,), labels={"tier": "near"}, cores=(0,), cpu=0.5, ssh="me@edge"),)
    experiment = Experiment(cells=(LINKED,), hosts="/home/me/hosts.toml", machines=hosts)
    record = to_record(experiment)
    assert "me" not in str(record["machines"]).replace("memory", "").replace("name", "")
    assert "/home/me" not in str(record)
    again = from_record(record)
    assert again.cells == experiment.cells
    assert [(host.name, host.servers, host.labels, host.cpu) for host in again.machines] == [
        ("edge", (0,), {"tier": "near"}, 0.5)
    ]
