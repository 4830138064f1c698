"""The profilers of a profile: a process on each host, one host after the other, which times runs of operations."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

import transports
from cluster import profiler, scratch
from cluster.config import ProfilerConfig
from cluster.hosts import Host
from cluster.launchers.base import Order
from cluster.machines import Machines
from cluster.manifest import digests
from experiments.measure.prepare import Prepared, Tensors
from partitioning import archive
from partitioning.run_times import Run
from transports.base import Array, Connection, Message

PATIENCE = 600.0
"""Seconds in which a profiler has to answer."""
ALIVE = 500_000_000
"""Most bytes of weights in the runs of a batch: each run holds its own copy of its weights."""


@dataclass(frozen=True)
class HostTimes:
    """The measurements of a profiler."""

    runs: Mapping[Run, npt.NDArray[np.float64]]
    """Run -> seconds of each round."""
    operations: Array
    """Seconds of each operation by itself."""
    base: int
    built: int


def runs_of(positions: Sequence[int], operations: int) -> list[Run]:
    """The runs to time: the whole model, the parts before and after each position, and a few runs between positions as
    a check."""
    ends = [(0, operations), *((0, at) for at in positions), *((at, operations) for at in positions)]
    inner = [positions[len(positions) * quarter // 4] for quarter in (1, 2, 3)] if len(positions) >= 4 else []
    return list(dict.fromkeys([*ends, *itertools.combinations(sorted(set(inner)), 2)]))


def batches(runs: Sequence[Run], weights: Sequence[int]) -> Iterator[list[Run]]:
    """The runs in batches of at most `ALIVE` bytes of weights, each of at least two runs."""
    batch: list[Run] = []
    for run in runs:
        held = sum(sum(weights[first:last]) for first, last in [*batch, run])
        if len(batch) > 1 and held > ALIVE:
            yield batch
            batch = []
        batch.append(run)
    yield batch


def measure(
    prepared: Prepared,
    machines: Machines,
    runs: Sequence[Run],
    weights: Sequence[int],
    rounds: int,
    notify: Callable[[str], None],
) -> Iterator[tuple[str, HostTimes]]:
    """(name of the host, what was measured there) for each host in turn. No process is left running. Raises
    `ClusterDown`."""
    cell = prepared.experiment.cells[0]
    inputs = prepared.inputs[cell.batch][0]
    with scratch.folder() as exports:
        archive.export(
            prepared.program, [op.name for op in prepared.program.graph.operations], exports / profiler.WHOLE
        )
        for host in machines.hosts:
            with _asking(prepared, machines, host, exports) as connection:
                asked = _Asked(connection, cell.engine, inputs)
                notify(f"host {host.name}: memory")
                base, built = asked.memory()
                times: dict[Run, npt.NDArray[np.float64]] = {}
                for number, batch in enumerate(batches(runs, weights)):
                    notify(f"host {host.name}: runs of operations, {len(times) + len(batch)} of {len(runs)}")
                    times |= asked.runs(batch, rounds, prepared.experiment.seed + number)
                notify(f"host {host.name}: each operation by itself")
                yield host.name, HostTimes(times, asked.operations(), base, built)


@dataclass(frozen=True)
class _Asked:
    """A connection to a profiler that asks it for measurements."""

    connection: Connection
    engine: str
    inputs: Tensors

    def memory(self) -> tuple[int, int]:
        base, built = self._call("memory", {})["bytes"]
        return int(base), int(built)

    def operations(self) -> Array:
        return self._call("operations", {})["seconds"]

    def runs(self, runs: Sequence[Run], rounds: int, seed: int) -> dict[Run, npt.NDArray[np.float64]]:
        fields = {"rounds": rounds, "seed": seed}
        seconds = self._call("runs", fields, {":runs": np.asarray(runs, np.int64)})["seconds"]
        return dict(zip(runs, seconds, strict=True))

    def _call(self, method: str, fields: Mapping[str, int], more: Tensors | None = None) -> Mapping[str, Array]:
        message = Message(method, {"engine": self.engine, **fields}, {**self.inputs, **(more or {})})
        return self.connection.call(message, PATIENCE).tensors


@contextlib.contextmanager
def _asking(prepared: Prepared, machines: Machines, host: Host, exports: Path) -> Iterator[Connection]:
    """Start the profiler of a host."""
    launcher, experiment = machines.launcher, prepared.experiment
    assert launcher is not None
    name, files = f"profiler-{host.name}", digests(exports)
    config = ProfilerConfig(
        bind=host.bind or host.address,
        advertise=host.address,
        port=host.port,
        cores=host.cores,
        transports=(profiler.TRANSPORT,),
        options=machines.identity.installed(launcher, host.name, [profiler.TRANSPORT]),
        insecure=machines.settings.insecure,
        files=files,
        threads=host.threads or experiment.threads,
        malloc="keep" if experiment.malloc == "keep" else "default",
    )
    contents = {sha256: exports / path for path, sha256 in files.items()}
    try:
        launcher.start(Order(name, config, contents, host.name, f"host {host.name}: its profiler"))
        address = launcher.addresses(name)[profiler.TRANSPORT]
        own = transports.make(profiler.TRANSPORT, machines.options([profiler.TRANSPORT]))
        with own.connect(address) as connection:
            yield connection
    finally:
        launcher.stop([name])
