"""phases.csv: where the time of each traced request went, at each hop.

A row for each timed request of a cell with `--trace` and each hop: the client, and the servers that worked on the
request.

Columns (units in brackets): `cell`, `run`, `block` as in samples.csv; `hop`: `client` or `server-N`. Then seconds [s]:
  `queue`     a message waited for a worker, for its turn in the flow `forward`, for a free core; under a load, a
              request for a free thread of the client
  `decode`    bytes became tensors
  `compute`   stages executed
  `encode`    tensors became bytes
  `connect`   a connection was made
  `lookup`    the registry was asked
  `route`     the client, or a server around its stages: it read a request's fields, kept inputs, found the next hop
  `wake`      the outputs had arrived, and the client's thread had not yet resumed (flow `forward`)
  `send`      nobody worked on the request: its message, or an answer, was on its way to this hop
  `other`     what is left: the transport's server, between bytes and the handler
  `wait`      some inputs of a stage had arrived, and others had not; other hops work meanwhile, so it overlaps
Each moment of a request counts once, for the first of these phases that goes on at any hop: compute, decode or encode,
connect or lookup, queue, route or other, send, wake. So the sum over all hops and phases but `wait` is the request's
`seconds`.
`clock_offset` [s]: by how much the clock of the hop was ahead of the client's; `clock_uncertainty` [s]: the largest
error of this offset; both are 0 on the client's machine. Only the border between `send` and other phases depends on
them. `dropped`: the number of spans of this hop that were not kept in this block; above 0, phases are incomplete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.spec.experiment import Cell
from experiments.store import files, rows
from experiments.store.rows import Number

PHASES = ("queue", "decode", "compute", "encode", "connect", "lookup", "route", "wake", "send", "other")
"""Their sum is the request's seconds."""
WAIT = "wait"
SECONDS = (*PHASES, WAIT)
COLUMNS = ("cell", "run", "block", "hop", *SECONDS, "clock_offset", "clock_uncertainty", "dropped")
CLIENT_HOP = "client"
SUMMARY = tuple(f"phase_{name}" for name in SECONDS)
"""Columns of summary.csv: mean seconds per request."""


@dataclass(frozen=True)
class HopPhases:
    """A row of phases.csv."""

    cell: Cell
    run: int
    block: int
    hop: str
    seconds: Mapping[str, float]
    """Phase -> seconds; a missing phase counts as 0."""
    clock_offset: float
    clock_uncertainty: float
    dropped: int

    def row(self) -> Mapping[str, Any]:
        return vars(self) | dict.fromkeys(SECONDS, 0.0) | dict(self.seconds) | {"cell": self.cell.name}


def writer(folder: Path) -> rows.Writer:
    """Creates phases.csv in `folder` and appends to it. Raises `WriteError`."""
    return rows.Writer(folder / files.PHASES, COLUMNS)


def read(folder: Path) -> pd.DataFrame:
    """The rows; none for a run that traced nothing. Raises `UsageError` for a file with other columns."""
    counts = dict.fromkeys(("run", "block", "dropped"), Number(whole=True))
    numbers = {**counts, **dict.fromkeys((*SECONDS, "clock_uncertainty"), Number())}
    frame = rows.read(folder / files.PHASES, COLUMNS, numbers, optional=True)
    return frame.assign(clock_offset=pd.to_numeric(frame["clock_offset"], errors="coerce"))  # it may be negative


NONE = pd.DataFrame({name: pd.Series(dtype=float) for name in COLUMNS})
"""The rows of a run that traced nothing."""


def means(phases: pd.DataFrame, by: Sequence[str] = ()) -> pd.DataFrame:
    """Mean seconds per request: a row for each cell (and value of the columns `by`), a column for each phase."""
    requests = phases.groupby("cell")["run"].nunique()
    sums = phases.groupby(["cell", *by], sort=False)[list(SECONDS)].sum()
    return sums.div(requests[sums.index.get_level_values("cell")].to_numpy(dtype=float), axis=0)


def summarised(summary: pd.DataFrame, phases: pd.DataFrame) -> pd.DataFrame:
    """`summary` with the columns `SUMMARY`; NaN for cells that were not traced."""
    found = means(phases)
    columns = {f"phase_{name}": summary["cell"].map(found[name]).astype(float) for name in SECONDS}
    return summary.assign(**columns)


def order(hop: str) -> tuple[bool, int]:
    """Sort key of hops: the client, then the servers by number."""
    return (hop != CLIENT_HOP, int(hop.rpartition("-")[2]) if hop != CLIENT_HOP else 0)
