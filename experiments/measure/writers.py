"""The files that a run writes while it measures."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from experiments.store import faults, nodes, phases, rows, samples, trace_file


@dataclass(frozen=True)
class Writers:
    """The open files of a run."""

    samples: samples.Writer
    faults: rows.Writer | None = None
    """Kills, and the requests that fail after them."""
    nodes: rows.Writer | None = None
    """What the nodes used in each block; None if nodes are not asked."""
    phases: rows.Writer | None = None
    trace: trace_file.Writer | None = None
    """Where the time of traced requests went; None if no request is traced."""

    @classmethod
    def into(
        cls, folder: Path, stack: contextlib.ExitStack, *, kill: bool = False, ask: bool = False, trace: bool = False
    ) -> Self:
        """Create the files in `folder`; `stack` closes them on exit. `kill`: whether a node is killed. `ask`: whether
        nodes are asked what they used. `trace`: whether requests are traced. Raises `WriteError`."""
        return cls(
            stack.enter_context(samples.Writer(folder)),
            stack.enter_context(faults.writer(folder)) if kill else None,
            stack.enter_context(nodes.writer(folder)) if ask else None,
            stack.enter_context(phases.writer(folder)) if trace else None,
            stack.enter_context(trace_file.Writer(folder)) if trace else None,
        )
