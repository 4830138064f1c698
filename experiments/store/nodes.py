"""nodes.csv: the resources that each node used during each block of requests.

Columns (units in brackets): `cell`, `block` as in samples.csv; `node`, `host`; `requests` in the block, also uncounted
ones; `cpu_seconds` [s] of all threads; `peak_bytes` [B], the node's largest resident memory until the end of the
block; `received_bytes` and `sent_bytes` [B] of tensors, to and from other processes; `host_joules` [J], the energy of
all processors of its host during the block, whichever program used it: nodes on one host have the same, so it must not
be summed over them. It is empty where the kernel does not count it (`cluster.energy`), and in older files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.spec.experiment import Cell
from experiments.store import files, rows
from experiments.store.rows import Number

TEXTS = ("cell", "node", "host")
COLUMNS = (
    *("cell", "block", "node", "host", "requests", "cpu_seconds", "peak_bytes", "received_bytes", "sent_bytes"),
    "host_joules",
)
LATER = {"host_joules": ""}
"""Columns that were added after version 0.1, and the text that stands for them in older files."""
SUMS = ("requests", "cpu_seconds", "received_bytes", "sent_bytes", "host_joules")


@dataclass(frozen=True)
class NodeBlock:
    """A row of nodes.csv."""

    cell: Cell
    block: int
    node: str
    host: str
    requests: int
    cpu_seconds: float
    peak_bytes: int
    received_bytes: int
    sent_bytes: int
    host_joules: float = math.nan

    def row(self) -> Mapping[str, Any]:
        return vars(self) | {"cell": self.cell.name}


def writer(folder: Path) -> rows.Writer:
    """Creates nodes.csv in `folder` and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.NODES, COLUMNS)


def read(folder: Path) -> pd.DataFrame:
    """The rows; none for a run without nodes, or of an earlier version. Raises `UsageError` for other columns."""
    numbers = {name: Number(whole=True) for name in COLUMNS if name not in TEXTS}
    numbers |= {"cpu_seconds": Number(), "host_joules": Number(may_be_empty=True)}
    return rows.read(folder / files.NODES, COLUMNS, numbers, LATER, optional=True)


def by_node(used: pd.DataFrame) -> pd.DataFrame:
    """A row for each cell, node and host: sums over the blocks per request, and the peak of the node's memory."""
    groups = used.groupby(["cell", "node", "host"], sort=False)
    found = groups[list(SUMS)].sum(min_count=1)
    per_request = found.drop(columns="requests").div(found["requests"], axis=0)
    return per_request.assign(peak_bytes=groups["peak_bytes"].max()).reset_index()
