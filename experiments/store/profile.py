"""The files of a profile (`splitbench profile`), and the cost model that they describe.

graph.json       the operations and tensors of the model (`partitioning.graph.Graph`)
operations.csv   a row for each operation on each host: `host`, `position` (in the graph's order), `operation`, `kind`,
                 `seconds` [s, by itself under the engine], `weight_bytes` [B], and what crosses a cut before it:
                 `tensors` and `bytes` [B, at the batch]
profile.csv      a row for each fused run of operations: `host`, `engine`, `batch`, `first`, `last` (the run ends before
                 it), `seconds` [s, the median], `low` and `high` [s, the 95 % interval of the median], `runs`
messages.csv     a row for each transport and position: `transport`, `position` (the content is what crosses a cut
                 there; 0: the model's input; empty: one value, or the input repeated to a megabyte), `bytes` [B],
                 `wire_bytes` [B, all bytes that crossed: the minimum, as other programs only add; empty: unknown],
                 `seconds` [s, the median of a message to a node and its small answer, there and back, without the work
                 of the stage], `low`, `high`, `runs`
hosts.csv        a row for each host: `host`, `base_bytes` [B, a process without a model], `built_bytes` [B, with the
                 whole model under the engine]
environment.json what ran where; its `experiment` has the form of a run's, with `kind`: profile
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.special import stdtrit

from experiments.spec.experiment import Experiment
from experiments.spec.settings import from_record
from experiments.store import environment, files, rows
from experiments.store.rows import Number
from partitioning.graph import Graph
from partitioning.part_costs import Estimate, MessageCost, Runs
from partitioning.traffic import Traffic
from transports.errors import UsageError

KIND = "profile"
OPERATIONS = ("host", "position", "operation", "kind", "seconds", "weight_bytes", "tensors", "bytes")
RUNS = ("host", "engine", "batch", "first", "last", "seconds", "low", "high", "runs")
MESSAGES = ("transport", "position", "bytes", "wire_bytes", "seconds", "low", "high", "runs")
HOSTS = ("host", "base_bytes", "built_bytes")
WHOLE, TIME = Number(whole=True), Number()
MISFIT = 0.25
"""If the median relative distance of the fitted line from the messages' intervals is larger, the line predicts
poorly."""
LEAST, SMALLER = 4096, 0.98
"""The density (bytes on the wire for each byte) is known for messages of more than `LEAST` bytes. Below `SMALLER`, the
transport compresses."""
HINT = "make one with: splitbench profile --model MODEL --out FOLDER"

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Record:
    """A row of one of the files."""

    values: Mapping[str, Any]

    def row(self) -> Mapping[str, Any]:
        return self.values


@dataclass(frozen=True)
class Profile:
    """A profile, as read from its folder."""

    folder: Path
    experiment: Experiment
    record: Mapping[str, Any]
    """environment.json."""
    graph: Graph
    operations: pd.DataFrame
    runs: pd.DataFrame
    messages: pd.DataFrame
    hosts: pd.DataFrame

    @property
    def engine(self) -> str:
        return self.experiment.cells[0].engine

    @property
    def batch(self) -> int:
        return self.experiment.cells[0].batch

    @cached_property
    def traffic(self) -> Traffic:
        """What crosses cuts."""
        return Traffic(self.graph, self.batch)

    @property
    def names(self) -> tuple[str, ...]:
        """The hosts."""
        return tuple(map(str, self.hosts["host"]))

    def runs_of(self, host: str) -> Runs:
        """The runs on a host."""
        found: list[Any] = self.runs[self.runs["host"] == host].to_dict("records")
        measured = {
            (row["first"], row["last"]): Estimate(
                row["seconds"], max(row["seconds"] - row["low"], row["high"] - row["seconds"])
            )
            for row in found
        }
        return Runs(measured, len(self.graph.operations))

    def message_cost(self, transport: str) -> MessageCost:
        """The cost of a message over a transport, fitted to the rows of messages.csv."""
        found = self.messages[self.messages["transport"] == transport]
        sizes, seconds = found["bytes"].to_numpy(float), found["seconds"].to_numpy(float)
        call, byte = line(sizes, seconds)
        predicted = call.value + byte.value * sizes
        outside = predicted - np.clip(predicted, found["low"].to_numpy(float), found["high"].to_numpy(float))
        misfit = float(np.median(np.abs(outside) / seconds))
        return MessageCost(call, byte, density_of(found), misfit)

    @property
    def transports(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(map(str, self.messages["transport"])))

    @property
    def weights(self) -> list[int]:
        """Bytes of the weights of each operation."""
        first = self.operations[self.operations["host"] == self.names[0]].sort_values("position")
        return [int(value) for value in first["weight_bytes"]]


def read(folder: Path) -> Profile:
    """The profile in `folder`. Raises `UsageError` for a folder that holds none, or an incomplete one."""
    if not (folder / files.PROFILE).is_file():
        raise UsageError(f"--profile {folder}: it holds no {files.PROFILE}; {HINT}")
    record = environment.read(folder)
    if record["experiment"].get("kind") != KIND:
        raise UsageError(f"--profile {folder}: it holds no profile, but another experiment; {HINT}")
    if not record["complete"]:
        raise UsageError(f"--profile {folder}: it is not complete ({record['failure']}); make it again")
    settings = {name: value for name, value in record["experiment"].items() if name not in ("kind", "positions")}
    whole = (
        "position",
        "weight_bytes",
        "tensors",
        "bytes",
        "first",
        "last",
        "batch",
        "runs",
        "base_bytes",
        "built_bytes",
    )

    def table(name: str, columns: Sequence[str]) -> pd.DataFrame:
        numbers = {column: WHOLE for column in columns if column in whole}
        numbers |= {column: TIME for column in columns if column in ("seconds", "low", "high")}
        numbers |= {column: Number(may_be_empty=True) for column in columns if column == "wire_bytes"}
        if name == files.MESSAGES:
            numbers["position"] = Number(may_be_empty=True)
        return rows.read(folder / name, columns, numbers)

    return Profile(
        folder,
        from_record(settings),
        record,
        _graph(folder / files.GRAPH),
        table(files.OPERATIONS, OPERATIONS),
        table(files.PROFILE, RUNS),
        table(files.MESSAGES, MESSAGES),
        table(files.HOSTS, HOSTS),
    )


def _graph(path: Path) -> Graph:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Graph)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{path} holds no graph ({error}); make the profile again") from error


def median(seconds: Floats) -> tuple[float, float, float]:
    """The median of independent values, and its 95 % interval from the order of the values."""
    ordered = np.sort(seconds)
    count = len(ordered)
    reach = 0.98 * math.sqrt(count)
    low, high = max(0, math.floor(count / 2 - reach)), min(count - 1, math.ceil(count / 2 + reach) - 1)
    return float(np.median(ordered)), float(ordered[low]), float(ordered[high])


def line(sizes: Floats, seconds: Floats) -> tuple[Estimate, Estimate]:
    """(seconds of an empty message, seconds for each byte): least squares of the relative errors.

    The 95 % intervals are from the residuals. If least squares has no positive solution, an empty message takes as long
    as the fastest message, and a byte takes the median of the slopes from the fastest message to each other message.
    """
    if len(sizes) == 1:
        return Estimate(float(seconds[0])), Estimate(0.0)
    terms = np.column_stack([1 / seconds, sizes / seconds])
    found, *_ = np.linalg.lstsq(terms, np.ones(len(sizes)), rcond=None)
    if found[0] <= 0 or found[1] < 0:  # the seconds depend on more than the bytes, as where a transport compresses
        least = int(seconds.argmin())
        slopes = np.delete(seconds - seconds[least], least) / np.maximum(1.0, np.delete(sizes - sizes[least], least))
        found = np.asarray([seconds[least], max(0.0, float(np.median(slopes)))])
    free = max(1, len(sizes) - 2)
    residuals = 1 - terms @ found
    covariance = np.linalg.pinv(terms.T @ terms) * float(residuals @ residuals) / free
    errors = float(stdtrit(free, 0.975)) * np.sqrt(np.diag(covariance))
    call, byte = (Estimate(float(value), float(error)) for value, error in zip(found, errors, strict=True))
    return call, byte


def density_of(messages: pd.DataFrame) -> dict[int, float]:
    """Position -> bytes on the wire for each byte of the content, for positions whose content the transport
    compresses."""
    messages = messages[messages["position"].notna()]
    kept = messages[(messages["bytes"] > LEAST) & (messages["wire_bytes"] < SMALLER * messages["bytes"])]
    pairs = zip(kept["position"], kept["wire_bytes"] / kept["bytes"], strict=True)
    return {int(position): float(density) for position, density in pairs}
