"""Starts the runtimes of an experiment's cells, and answers the requests of each cell through its runtime."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from cluster import runtimes
from cluster.client import Answer
from cluster.launchers import Launcher
from cluster.request import RequestStats
from cluster.runtimes.base import Infer, Setup
from experiments.spec.experiment import Cell
from partitioning.errors import PartitionError
from transports.base import Array
from transports.errors import UsageError

if TYPE_CHECKING:
    from experiments.measure.prepare import Prepared

UNKNOWN = RequestStats(*[math.nan] * len(RequestStats.__struct_fields__))  # type: ignore[arg-type]
"""The statistics of a request: nothing is measured inside a runtime."""


class Direct(NamedTuple):
    """The local model or a runtime, which answers the requests of a cell without nodes."""

    infer: Callable[[Mapping[str, Array]], Answer]
    awake: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext
    """Entered for a block of requests (`cluster.runtimes.base.Runtime.awake`)."""
    deploy: Callable[[str], AbstractContextManager[Infer]] | None = None
    """Of a runtime: deploys the partition with another engine (`cluster.runtimes.base.Runtime.deploy`)."""


@contextlib.contextmanager
def started(
    prepared: Prepared, launcher: Launcher | None, notify: Callable[[str], None]
) -> Iterator[Mapping[Cell, Direct]]:
    """Cell over a runtime -> the `Direct` that answers its requests. On exit all processes of the runtimes end.

    Raises `UsageError` for a stage that a runtime cannot execute.
    """
    cells = [cell for cell in prepared.partitions if runtimes.is_runtime(cell.transport)]
    kinds = {cell.transport: runtimes.load(cell.transport) for cell in cells}
    timeout, found = prepared.experiment.timeout, dict[Cell, Direct]()
    with contextlib.ExitStack() as stack:
        for processes in dict.fromkeys(kind.processes for kind in kinds.values()):
            assert launcher is not None
            own = [cell for cell in cells if kinds[cell.transport].processes is processes]
            partitions = prepared.with_engines(own)
            programs = dict.fromkeys(partitions.values(), prepared.program)
            asked = prepared.experiment
            setup = Setup(programs, asked.threads, asked.malloc, asked.hardware)
            notify(f"starting {', '.join(dict.fromkeys(cell.transport for cell in own))}")
            system = stack.enter_context(processes(launcher, setup))
            deployed: dict[tuple[str, str, str], Direct] = {}
            for cell in own:
                partition = partitions[prepared.partitions[cell]]
                key = (cell.transport, partition.name, cell.engine)
                if key not in deployed:
                    try:
                        runtime = kinds[cell.transport](system)
                        infer = stack.enter_context(runtime.deploy(partition, cell.engine))
                    except PartitionError as error:
                        raise UsageError(str(error)) from error
                    deployed[key] = Direct(
                        _answering(infer, timeout), runtime.awake, partial(runtime.deploy, partition)
                    )
                    notify(f"{cell.transport} ready with {partition.name}")
                found[cell] = deployed[key]
        yield found


def _answering(infer: Infer, timeout: float) -> Callable[[Mapping[str, Array]], Answer]:
    return lambda inputs: Answer(infer(inputs, timeout), UNKNOWN)
