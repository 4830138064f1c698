"""Measures the cost of a model on a host: a process that holds the whole model and times its operations when asked.

It uses the cores and threads of its host. The host's share of a core and memory limit do not apply to it: the effect of
a share on a stage depends on the work before the stage (`partitioning.part_costs.Device`), and a profiler holds several
copies of the weights at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Self

import numpy as np
import psutil

from cluster.errors import StageFailed
from cluster.manifest import verify
from cluster.registry import fields_read, text, whole
from partitioning import archive, costs, engines, run_times
from partitioning.errors import PartitionError, one_line
from partitioning.program import Program
from transports.base import Array, Message
from transports.errors import MalformedMessage
from transports.process import freeze_garbage

TRANSPORT = "tcp"
"""The transport of profilers."""
WHOLE = "whole/server-0"
"""The folder of the model's archive."""


class Profiler:
    """The handler of a profiler. `base`: bytes of memory of the process before it loaded the model."""

    def __init__(self, program: Program, base: int) -> None:
        self._program = program
        self._base = base

    @classmethod
    def load(cls, folder: Path, files: Mapping[str, str]) -> Self:
        """The profiler of the model whose archive is `WHOLE` in `folder`. Raises `Tampered` and `PartitionError`."""
        base = _resident()
        verify(folder, files)
        program = archive.load(folder / WHOLE)
        freeze_garbage()
        return cls(program, base)

    def handle(self, message: Message) -> Message:
        """Answer `runs`, `operations` and `memory`; the model's inputs are tensors of the message, by name.

        `runs` takes the int64 tensor `:runs` with a row (first, end) for each run of operations, and the fields
        `engine`, `rounds` and `seed`; its answer is `seconds` [run, round]. `operations` gives the `seconds` of each
        operation alone. `memory` gives the bytes of the process before it loaded the model, and with the whole model
        built for the engine.
        """
        with fields_read("a message to a profiler has"):
            engine = text(message.fields, "engine")
        inputs = {name: array for name, array in message.tensors.items() if not name.startswith(":")}
        try:
            match message.method:
                case "runs":
                    return self._runs(message, engine, inputs)
                case "operations":
                    found = costs.measure(self._program, inputs, engine)
                    seconds = [found[operation.name] for operation in self._program.graph.operations]
                    return Message("timed", {}, {"seconds": np.asarray(seconds)})
                case "memory":
                    return Message("measured", {}, {"bytes": np.asarray([self._base, self._built(engine, inputs)])})
        except PartitionError as error:
            raise StageFailed(one_line(error)) from error
        raise MalformedMessage(f"a profiler has no method {message.method!r}: it has 'runs', 'operations' and 'memory'")

    def _runs(self, message: Message, engine: str, inputs: Mapping[str, Array]) -> Message:
        with fields_read("a message to a profiler has"):
            rounds, seed = whole(message.fields, "rounds"), whole(message.fields, "seed")
        runs = [(int(first), int(last)) for first, last in message.tensors[":runs"]]
        return Message("timed", {}, {"seconds": run_times.measure(self._program, inputs, engine, runs, rounds, seed)})

    def _built(self, engine: str, inputs: Mapping[str, Array]) -> int:
        """Bytes of memory of this process with the whole model built for the engine, after one call of it."""
        graph = self._program.graph
        executable = engines.build(engine, self._program, run_times.stage_of(graph, (0, len(graph.operations))))
        executable([inputs[name] for name in graph.inputs])
        return _resident()


def _resident() -> int:
    """Bytes of resident memory of this process."""
    return int(psutil.Process().memory_info().rss)
