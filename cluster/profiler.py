"""What a model costs on a host: a process that holds the whole model and times runs of its operations when asked.

It has the cores and threads of its host. The host's share of a core and its limit of memory do not apply: what a share
does to a stage depends on what ran before it (`partitioning.part_costs.Device`), and a profile holds several copies of
the weights at once.
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
    """The handler of a profiler. `base`: bytes that the process took before it had loaded the model."""

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

        `runs`: the int64 tensor `:runs` with a row (first, end) for each run -> `seconds` [run, round] for the fields
        `engine`, `rounds` and `seed`. `operations` -> `seconds` of each operation by itself. `memory` -> the bytes of
        the process before the model was loaded, and with the whole model under the engine.
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
        """The bytes of this process with the whole model, after a call."""
        graph = self._program.graph
        executable = engines.build(engine, self._program, run_times.stage_of(graph, (0, len(graph.operations))))
        executable([inputs[name] for name in graph.inputs])
        return _resident()


def _resident() -> int:
    """The bytes of memory that this process takes."""
    return int(psutil.Process().memory_info().rss)
