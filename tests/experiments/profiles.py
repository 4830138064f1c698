"""A profile of a chain of operations, with invented figures, in a folder as `splitbench profile` writes it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from cluster import facts
from cluster.hosts import Host
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.settings import to_record
from experiments.store import files, rows
from experiments.store import profile as store
from tests.experiments.conftest import ENVIRONMENT
from tests.partitioning.graphs import chain

SIZES = (25_000, 200, 25_000, 50)
"""Elements of the output of each operation."""
HOSTS = (Host(name="edge", client=True, servers=(0,)), Host(name="cloud", servers=(1,)))
SECONDS = {"edge": (0.01, 0.02, 0.03, 0.04), "cloud": (0.001, 0.002, 0.003, 0.004), "here": (0.01, 0.02, 0.03, 0.04)}
"""Host -> seconds of each operation."""
CALL, BYTE = {"tcp": 1e-3, "grpc": 2e-3}, 1e-8


def write(folder: Path, machines: Sequence[Host] = HOSTS, **record: Any) -> Path:
    """Write the profile into `folder`, and return the folder. `record`: replaced entries of environment.json."""
    folder.mkdir(parents=True)
    names = [host.name for host in machines] or ["here"]
    cells = tuple(Cell(transport=name, mode="whole", engine="frozen", servers=1) for name in CALL)
    experiment = to_record(Experiment(cells, model="chain.keras", machines=tuple(machines))) | {"kind": store.KIND}
    here = {"versions": facts.versions(), "processor": facts.processor()}
    whole = ENVIRONMENT | {"experiment": experiment, "complete": True} | here | record
    (folder / files.ENVIRONMENT).write_text(json.dumps(whole), encoding="utf-8")
    graph = chain(*SIZES)
    (folder / files.GRAPH).write_bytes(msgspec.json.encode(graph))
    count = len(SIZES)
    runs = [(0, count), *((0, at) for at in range(1, count)), *((at, count) for at in range(1, count))]
    with rows.Writer(folder / files.PROFILE, store.RUNS) as writer:
        for host in names:
            for first, last in runs:
                seconds = sum(SECONDS[host][first:last])
                row = {"host": host, "engine": "frozen", "batch": 1, "first": first, "last": last, "runs": 20}
                writer.append(store.Record(row | {"seconds": seconds, "low": 0.99 * seconds, "high": 1.01 * seconds}))
    with rows.Writer(folder / files.OPERATIONS, store.OPERATIONS) as writer:
        for host in names:
            for place, operation in enumerate(graph.operations):
                row = {"host": host, "position": place, "operation": operation.name, "kind": operation.kind}
                row |= {"seconds": SECONDS[host][place], "weight_bytes": 1000 * (place + 1), "tensors": 1}
                writer.append(store.Record(row | {"bytes": 4 * (1, *SIZES)[place]}))
    with rows.Writer(folder / files.MESSAGES, store.MESSAGES) as writer:
        for name, call in CALL.items():
            for place in range(count):
                nbytes = 4 * (1, *SIZES)[place]
                seconds = call + BYTE * nbytes
                row = {"transport": name, "position": place, "bytes": nbytes, "wire_bytes": nbytes + 900.0, "runs": 20}
                writer.append(store.Record(row | {"seconds": seconds, "low": seconds, "high": seconds}))
    with rows.Writer(folder / files.HOSTS, store.HOSTS) as writer:
        for host in names:
            writer.append(store.Record({"host": host, "base_bytes": 1_000_000, "built_bytes": 1_020_000}))
    return folder
