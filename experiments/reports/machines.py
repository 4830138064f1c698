"""The sections on machines: hosts and what ran on them, what each node used, and the links between hosts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from experiments.reports.labels import Settings
from experiments.reports.markdown import ABSENT, line, number, table
from experiments.spec.experiment import Experiment
from experiments.store.nodes import by_node
from experiments.store.samples import cell_of

KINDS = {
    "emulated": "**Emulated**: a relay for each pair of hosts delays and limits what passes. It models no lost packets "
    "and no congestion control of TCP, and costs some time of its own.",
    "kernel": "**Shaped by the kernel** between network namespaces of one machine: {detail}.",
    "real": "**Real**: nothing was imposed; measured before and after the run, over plain sockets.",
}
"""Kind of link -> its description in a report."""

COUNTED = "Energy is that of all processors of the host, for every program on it: nodes of one host share it."
NOT_COUNTED = "No host's kernel counts the energy of its processors (powercap)."


def sections(
    record: Mapping[str, Any], experiment: Experiment, used: pd.DataFrame, summary: pd.DataFrame
) -> list[list[str]]:
    """The sections for which the run has data: none without hosts, links and nodes."""
    machines = record.get("machines") or {}
    return [_hosts(machines, experiment), _links(machines, experiment), _nodes(used, summary)]


def _hosts(machines: Mapping[str, Any], experiment: Experiment) -> list[str]:
    hosts: Mapping[str, Mapping[str, Any]] = machines.get("hosts", {})
    if not hosts:
        return []
    held = _held(hosts)
    several = machines["cluster"] != "local"
    header = ["Host", "Servers", "Labels", "Limits"]
    header += ["Processor", "Cores", "Memory (GB)", "Kernel", "Load", "Clock (ms)"] if several else []
    body = [[line(name), held[name], *_host(host)][: len(header)] for name, host in hosts.items()]
    protected = "without TLS (--insecure)" if experiment.insecure == "on" else "under mutual TLS"
    where = f"Processes ran over {machines['cluster']}, {protected}." if several else "All hosts are this machine."
    clock = " Clock: how far it was ahead of the client's, with its uncertainty." if several else ""
    return ["## Hosts", "", f"{where}{clock}", "", *table(header, body, left=5)]


def limits_of(host: Mapping[str, Any]) -> dict[str, Any]:
    """The limits of a host by field name. An older record lacks some fields."""
    found = {name: host.get(name) for name in ("threads", "slowdown", "cores", "cpu", "memory")}
    return {name: value for name, value in found.items() if value and (name, value) != ("slowdown", 1.0)}


def _held(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    given = {name: ", ".join(map(str, host["servers"])) for name, host in hosts.items()}
    return given if any(given.values()) else dict.fromkeys(hosts, "in blocks")


def _host(host: Mapping[str, Any]) -> list[str]:
    processor, system = host.get("processor", {}), host.get("system", {})
    clock = ABSENT
    if "clock_offset" in host:
        clock = f"{host['clock_offset'] * 1e3:+.2f} +- {host['clock_uncertainty'] * 1e3:.2f}"
    memory = host.get("memory_bytes")
    return [
        ", ".join(f"{key} {line(value)}" for key, value in host["labels"].items()) or ABSENT,
        ", ".join(f"{name} {value}" for name, value in limits_of(host).items()) or "none",
        line(str(processor.get("model", ABSENT))),
        str(processor.get("affinity", ABSENT)),
        number(memory / 1e9, 3) if memory else ABSENT,
        line(str(system.get("kernel", ABSENT))),
        f"{host['load'][0]:g}" if "load" in host else ABSENT,
        clock,
    ]


def _links(machines: Mapping[str, Any], experiment: Experiment) -> list[str]:
    imposed = dict.fromkeys(cell.link for cell in experiment.cells if cell.link)
    ways = machines.get("ways", {})
    kind = "emulated" if imposed else "kernel" if machines.get("shaped") else "real"
    if not imposed and not ways:
        return []
    lines = ["## Links", "", KINDS[kind].format(detail=line(str(machines.get("shaped", ""))))]
    if imposed:
        lines += ["", *(f"- `{link}`" for link in imposed)]
    if ways:
        header = ["From", "To", "Round trip (ms)", "after", "Bandwidth (Mbit/s)", "after"]
        after = {(way["from"], way["to"]): way for way in ways.get("after", ())}
        body = [_way(way, after.get((way["from"], way["to"]))) for way in ways["before"]]
        lines += ["", "Measured between the machines, over plain sockets:", "", *table(header, body, left=2)]
    return lines


def _way(before: Mapping[str, Any], after: Mapping[str, Any] | None) -> list[str]:
    def shown(way: Mapping[str, Any] | None) -> tuple[str, str]:
        return (number(way["rtt"] * 1e3, 3), number(way["bandwidth"] / 1e6, 3)) if way else (ABSENT, ABSENT)

    (rtt, rate), (rtt_after, rate_after) = shown(before), shown(after)
    return [line(before["from"]), line(before["to"]), rtt, rtt_after, rate, rate_after]


def _nodes(used: pd.DataFrame, summary: pd.DataFrame) -> list[str]:
    if used.empty:
        return []
    cells = {row["cell"]: cell_of(row) for row in _rows(summary)}
    settings = Settings(list(cells.values()))
    counted = bool(used["host_joules"].notna().any())
    header = ["Cell", "Node", "Host", "CPU (s)", "Received (MB)", "Sent (MB)", "Peak memory (MB)"]
    header += ["Energy of the host (J)"] if counted else []
    found = [row for row in _rows(by_node(used)) if row["cell"] in cells]
    body = [_node(row, settings.label(cells[row["cell"]]))[: len(header)] for row in found]
    text = "A request's share of what each node used, with the requests that do not count. Bytes are those of tensors. "
    text += COUNTED if counted else NOT_COUNTED
    legend = [f"- {line(item)}" for item in settings.legend()]
    return ["## Nodes", "", text, *(["", *legend] if legend else []), "", *table(header, body, left=3)]


def _rows(frame: pd.DataFrame) -> Sequence[Mapping[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _node(row: Mapping[str, Any], label: str) -> list[str]:
    return [
        line(label),
        line(row["node"]),
        line(row["host"]),
        number(row["cpu_seconds"], 3),
        number(row["received_bytes"] / 1e6, 4),
        number(row["sent_bytes"] / 1e6, 4),
        number(row["peak_bytes"] / 1e6, 3),
        number(row["host_joules"], 3),
    ]
