"""Shared by the tests of `splitbench compare`: folders of noisy samples, which differ from seed to seed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from experiments.compare import runs
from experiments.compare.tables import Outcome
from experiments.spec.experiment import Cell, local_of
from experiments.store import files
from experiments.store.samples import Sample, Writer
from tests.experiments.conftest import Maker

NONE, GRPC, RPYC, UNIX = (Cell(name) for name in ("none", "grpc", "rpyc", "unix"))
LOCAL = local_of(GRPC)
LEVELS = {LOCAL: 0.1, NONE: 0.12, GRPC: 0.25, RPYC: 0.45, UNIX: 0.15}


def levels_of(rng: np.random.Generator, rounds: int) -> list[float]:
    """The machine's state in each round, shared by all cells: autocorrelated, with a deviation of 5 %."""
    state = [0.05 * rng.standard_normal()]
    for _ in range(rounds - 1):
        state.append(0.8 * state[-1] + 0.03 * rng.standard_normal())
    return [math.exp(value) for value in state]


@dataclass(frozen=True)
class Noisy:
    """Writes folders of noisy samples: 12 rounds of 5 requests, unless told otherwise."""

    make: Maker

    def __call__(
        self,
        name: str,
        seed: int,
        levels: Mapping[Cell, float] = LEVELS,
        *,
        rounds: int = 12,
        numbered: bool = True,
        settings: Mapping[str, Any] = {},
        **record: Any,
    ) -> Path:
        """`levels`: mean seconds of each cell. `numbered`: samples have a round; those of an earlier version have none.

        `settings`: entries of the experiment's record. `record`: entries of environment.json.
        """
        folder = self.make(levels, name, runs=5 * rounds, **record)
        (folder / files.SAMPLES).unlink()
        rng = np.random.default_rng(seed)
        state = levels_of(rng, rounds)
        with Writer(folder) as writer:
            for place, (cell, level) in enumerate(levels.items()):
                for run in range(5 * rounds):
                    seconds = level * state[run // 5] * math.exp(0.03 * rng.standard_normal())
                    number = run // 5 if numbered else math.nan
                    writer.append(Sample(cell, run, seconds, place + 100 * (run // 5), round=number))
        path = folder / files.ENVIRONMENT
        whole = json.loads(path.read_text())
        whole["experiment"] |= settings
        path.write_text(json.dumps(whole))
        return folder


def outcome(a: Path, b: Path, *, anyway: bool = False) -> Outcome:
    return runs.outcome_of(runs.read(str(a)), runs.read(str(b)), anyway=anyway)
