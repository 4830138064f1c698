"""Results folders as runs write them, with the same figures on every machine."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from experiments.spec.experiment import Cell, Experiment
from experiments.spec.settings import to_record
from experiments.store import files
from experiments.store.samples import Sample, Writer
from tests.models import residual

LEVELS = {"none": 1.0, "grpc": 2.5, "rpyc": 4.5, "rpyc-tuned": 2.75, "unix": 1.5}

ENVIRONMENT: dict[str, Any] = {
    "complete": True,
    "failure": "",
    "started": "2026-01-02T03:04:05+00:00",
    "ended": "2026-01-02T03:14:15+00:00",
    "command": ["--transport", "none,rpyc,grpc", "--out", "mine"],
    "commit": {"commit": "0123456789abcdef0123456789abcdef01234567", "dirty": True},
    "versions": {"python": "3.11.7", "tensorflow": "2.21.0", "rpyc": None},
    "system": {"system": "Linux", "kernel": "6.1"},
    "processor": {"model": "Processor | of a sort", "logical_cores": 2, "affinity": 2},
    "memory_bytes": 8_000_000_000,
    "load_at_start": [0.1, 0.2, 0.3],
    "load_at_end": [1.5, 0.25, 0.3],
    "threads": {"intra_op": 2, "inter_op": 2},
    "variables": {"TF_NUM_INTRAOP_THREADS": "2"},
}


def seconds_of(cell: Cell, run: int) -> float:
    """Invented seconds in exact steps: by transport and mode, with a slope and a period, without randomness."""
    level = (0.1 if cell.mode == "whole" else 0.125 if cell.mode == "layer" else 0.11) * cell.batch
    return round(level * LEVELS[cell.transport] * (1 + 0.01 * (run % 7) + 0.002 * (run // 10)), 6)


def sample_of(cell: Cell, run: int, block: int, number: float) -> Sample:
    """`number`: the sample's round; NaN, as in an earlier version, for none."""
    hops = 0 if cell.transport == "none" else {"whole": 1, "layer": 41, "submodel": 8}[cell.mode]
    seconds = seconds_of(cell, run)
    costs = {"messages": hops, "payload_bytes": hops * 150_528, "lookups": 0, "connects": 0, "round": number}
    costs |= {"queue_seconds": math.nan if math.isnan(number) else 0.0005 * hops}
    return Sample(cell, run, seconds, block, deviation=2.5e-7, compute_seconds=round(seconds / 2, 6), **costs)


@dataclass(frozen=True)
class Maker:
    """Writes results folders below `root`."""

    root: Path

    def __call__(
        self,
        cells: Iterable[Cell],
        name: str = "made",
        *,
        runs: int = 50,
        block: int = 5,
        kill: str = "",
        rounds: bool = True,
        **record: Any,
    ) -> Path:
        """A folder with `runs` requests of each cell, in blocks of `block` requests.

        `rounds`: each block is a round; otherwise samples have no round, as in an earlier version. `record`: entries of
        environment.json.
        """
        experiment = Experiment(tuple(cells), runs=runs, kill=kill).with_locals()
        folder = self.root / name
        folder.mkdir(parents=True)
        with Writer(folder) as writer:
            for place, cell in enumerate(experiment.cells):
                for run in range(runs):
                    number = run // block
                    block_number = place + len(experiment.cells) * number
                    writer.append(sample_of(cell, run, block_number, number if rounds else math.nan))
        whole = ENVIRONMENT | {"experiment": to_record(experiment)} | record
        (folder / files.ENVIRONMENT).write_text(json.dumps(whole), encoding="utf-8")
        return folder


@pytest.fixture
def make_results(tmp_path: Path) -> Maker:
    return Maker(tmp_path)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model that takes photographs, as a `.keras` file."""
    path = tmp_path_factory.mktemp("models") / "residual.keras"
    residual().save(path)
    return path
