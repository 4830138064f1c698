"""Executing stages: the shard of a partition that a server holds, and the number of stages that run at a time."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from cluster.errors import NotAwaited, StageFailed
from cluster.partition import Partition
from cluster.pinning import usable
from cluster.segments import Segments, segments_of
from partitioning.plan import Stage
from transports.base import DTYPES, Array
from transports.errors import DeadlineExceeded, MalformedMessage, WireError

log = logging.getLogger("splitbench.cluster")

Execute = Callable[[Sequence[Any], float], list[Any]]
"""A function that executes a stage with an engine. It takes the stage's inputs in order (arrays, or outputs of another
stage) and the seconds within which a model server has to answer, and returns the outputs in order, of the engine's own
type."""


@dataclass(frozen=True, eq=False)
class Shard:
    """One server's part of one partition, for one engine."""

    partition: Partition
    server: int
    execute: Mapping[str, Execute]
    to_array: Callable[[Any], Array]
    remote: bool = False
    """Whether model servers execute the stages, which then need no core of this process."""

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """The server's stages, in an order in which they can run."""
        return self.partition.portion(self.server)

    @cached_property
    def segments(self) -> Mapping[bool, Segments]:
        """`Route.local_calls` -> the segments of the stages."""
        return {local: segments_of(self.stages, local) for local in (False, True)}

    @cached_property
    def leaving(self) -> Mapping[bool, frozenset[str]]:
        """`Route.local_calls` -> the tensors that this server sends in messages to the servers that await them."""
        made, to = [name for stage in self.stages for name in stage.outputs], self.partition.destinations
        return {local: frozenset(name for name in made if to(name, local)) for local in (False, True)}

    @cached_property
    def _awaited(self) -> Mapping[bool, frozenset[str]]:
        """`Route.local_calls` -> the tensors that arrive in messages."""
        names, to = self.partition.awaited(self.server), self.partition.destinations
        return {local: frozenset(name for name in names if self.server in to(name, local)) for local in (False, True)}

    @cached_property
    def _expected(self) -> Mapping[str, tuple[np.dtype[Any] | None, tuple[int | None, ...]]]:
        """Tensor -> its dtype (None if no transport carries it) and its shape (None for open extents)."""
        edges = self.partition.plan.edges
        taken = {name for stage in self.stages for name in stage.inputs}
        return {name: (DTYPES.get(edges[name].dtype), edges[name].shape) for name in taken}

    @cached_property
    def _fitting(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Tensor -> shape and dtype of the last one that fitted, since most requests bring the same."""
        return {}

    def check_arrival(self, name: str, tensor: Array, local_calls: bool) -> None:
        """Raise `NotAwaited` if no stage awaits the tensor in a message, and `MalformedMessage` for a wrong dtype or
        shape."""
        if name not in self._awaited[local_calls]:
            raise NotAwaited(f"no stage on server {self.server} awaits tensor {name!r}")
        if self._fitting.get(name) == (tensor.shape, tensor.dtype):
            return
        dtype, shape = self._expected[name]
        fits = len(shape) == tensor.ndim and all(map(_extent_fits, shape, tensor.shape))
        if tensor.dtype != dtype or not fits:
            edge, found = self.partition.plan.edges[name], f"{tensor.dtype.name}{list(tensor.shape)}"
            raise MalformedMessage(f"tensor {name!r}: expected {edge.dtype}{list(edge.shape)}, and received {found}")
        self._fitting[name] = tensor.shape, tensor.dtype

    def run(self, stage: Stage, values: Mapping[str, Any], seconds: float) -> list[Any]:
        """The outputs of `stage`, in order. `values` contains the stage's inputs by name.

        Raises `StageFailed`, which names only the type of the stage's exception; the log has the exception's text.
        """
        try:
            outputs = self.execute[stage.name]([values[name] for name in stage.inputs], seconds)
            if len(outputs) != len(stage.outputs):
                raise ValueError(f"{len(outputs)} outputs, and {len(stage.outputs)} expected")
            return outputs
        except WireError:
            raise
        except Exception as error:
            log.exception("stage %r failed", stage.name)
            text = f"stage {stage.name!r} on server {self.server} failed with {type(error).__name__}"
            raise StageFailed(text) from error


def _extent_fits(expected: int | None, found: int) -> bool:
    return expected is None or expected == found


class ExecutionSlots:
    """Limits the stages that execute at a time to the cores that the process may use, in every flow.

    With more stages at a time, they would evict each other's data from the caches, and time spent waiting for a core
    would count as compute. A thread with a stage to execute waits here for a slot and then executes the stage itself.
    """

    def __init__(self, capacity: Callable[[], int] = usable) -> None:
        """`capacity`: the current number of slots, which changes when the process is pinned."""
        self._capacity = capacity
        self._taken = 0
        self._waiting = 0
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)

    def acquire(self, deadline: float) -> float:
        """Take a slot; returns the seconds spent waiting. Raises `DeadlineExceeded` if none is free by `deadline`, a
        moment of the monotonic clock."""
        with self._lock:
            if not self._taken or self._taken < self._capacity():  # there is always one slot
                self._taken += 1
                return 0.0
            began, seconds = time.perf_counter(), max(0.0, deadline - time.monotonic())
            self._waiting += 1
            try:
                free = self._freed.wait_for(lambda: self._taken < self._capacity(), seconds)
            finally:
                self._waiting -= 1
            if not free:
                raise DeadlineExceeded(f"no core was free for a stage within {seconds:.3g} s")
            self._taken += 1
            return time.perf_counter() - began

    def release(self) -> None:
        """Give a slot back."""
        with self._lock:
            self._taken -= 1
            if self._waiting:
                self._freed.notify()
