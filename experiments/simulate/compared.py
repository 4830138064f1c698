"""Predicted against measured percentiles, derived from the runs that `experiments.simulate.check` made.

check.csv has a row for each load on each cell (units in brackets): `cell`, with one request at a time; `load`, or
`concurrency` of a closed loop; `requests`; for p50 and p99, `predicted_` and `measured_` [s], and `error_`, predicted
over measured less one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.reports import sections
from experiments.reports.markdown import line, number, table
from experiments.simulate.calibrate import fitted
from experiments.simulate.engine import Arrivals, simulate
from experiments.simulate.measured import Results, Run
from experiments.simulate.outcome import outcome_of
from experiments.simulate.system import System
from experiments.simulate.topology import Layout, system_of
from experiments.spec.experiment import Cell
from experiments.spec.schedule import lead
from experiments.store import environment, files

KIND = "simulation-check"
PILOT, MEASURED = "pilot", "measured"
"""The folders of the runs: a short run, from which the loads are chosen, and the run that is compared."""
SHARES = (0.3, 0.6)
"""Loads, as shares of the rate that the slowest cell answers with `MANY` clients."""
MANY, LONG = 16, 3000
"""Enough clients to keep every cell busy, and the number of simulated requests that show the rate of answers."""
REPETITIONS = 10
"""Simulated blocks for each measured block."""
PERCENTILES: Mapping[str, tuple[float, float]] = {"p50": (0.5, 0.10), "p99": (0.99, 0.25)}
"""Name of a percentile -> the share of requests below it, and the largest error that is the goal."""
HEADER = ("Cell", "Load", *(f"{name} {what}" for name in PERCENTILES for what in ("predicted", "measured", "error")))


@dataclass(frozen=True)
class Compared:
    """One load on one cell."""

    cell: Cell
    """The cell with one request at a time."""
    loaded: Cell
    requests: int
    predicted: Mapping[str, float]
    measured: Mapping[str, float]

    def error(self, name: str) -> float:
        return self.predicted[name] / self.measured[name] - 1

    def row(self) -> Mapping[str, object]:
        load = {"load": self.loaded.load, "concurrency": 0 if self.loaded.load else self.loaded.concurrency}
        return {"cell": self.cell.name, **load, "requests": self.requests} | {
            f"{what}_{name}": value
            for name in PERCENTILES
            for what, value in (
                ("predicted", self.predicted[name]),
                ("measured", self.measured[name]),
                ("error", self.error(name)),
            )
        }


def rates(folder: Path, seed: int) -> list[float]:
    """Requests per second of the loads to measure."""
    pilot = Results.read(folder / PILOT)
    systems = [_system(pilot.run(cell)) for cell in _cells(pilot)]
    most = min(outcome_of(simulate(system, MANY, LONG, seed, LONG // 10)).goodput for system in systems)
    return [float(f"{share * most:.3g}") for share in SHARES]


def compare(folder: Path, seed: int) -> Iterator[Compared]:
    """The loaded cells of the run below `folder`, with their predictions.

    The closed loops of the fewest and of the most clients are used for fitting alone, and are not compared.
    """
    results = Results.read(folder / MEASURED)
    for alone in _cells(results):
        run = results.run(alone)
        whole, between = _system(run), [*run.closed_loops][1:-1]
        for cell in results.loaded(alone):
            if not cell.load and cell.concurrency not in between:
                continue
            group = results.requests[cell]
            system = whole if cell.load else _system(run.without(cell.concurrency))
            predicted = _seconds(system, cell, group, seed)
            yield Compared(alone, cell, len(group), _percentiles(predicted), _percentiles(group["seconds"]))


def build(folder: Path) -> Path:
    """Write check.csv and check.md into `folder`, and return the path of the page.

    Raises `UsageError` if `folder` lacks the runs, and `WriteError` if a file cannot be written.
    """
    seed = int(environment.read(folder)["experiment"]["seed"])
    files.replace_file(folder / files.CHECK, as_csv(compare(folder, seed)))
    return write_page(folder)


def as_csv(found: Iterable[Compared]) -> str:
    """The text of check.csv."""
    frame = pd.DataFrame([each.row() for each in found])
    return frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def write_page(folder: Path) -> Path:
    """Write check.md from check.csv."""
    record = environment.read(folder)
    parts = [
        ["# Simulation against measurement"],
        sections.banner(record, ""),
        [INTRODUCTION],
        table_of(folder),
        summary(folder),
        sections.machine(record, {}),
    ]
    files.replace_file(folder / files.CHECK_REPORT, "\n\n".join("\n".join(part) for part in parts if part) + "\n")
    return folder / files.CHECK_REPORT


def table_of(folder: Path) -> list[str]:
    """A row for each row of check.csv, in milliseconds and percent."""
    return table(HEADER, [_texts(row) for row in _read(folder).to_dict("records")], left=2)


def summary(folder: Path) -> list[str]:
    """How many predictions are within the goal, and the median and the largest error."""
    texts, frame = [], _read(folder)
    for name, (_, target) in PERCENTILES.items():
        errors = frame[f"error_{name}"].abs()
        texts.append(
            f"- {name}: {int((errors <= target).sum())} of {len(errors)} within {100 * target:.0f} %; median error "
            f"{100 * errors.median():.1f} %, largest {100 * errors.max():.1f} %."
        )
    return texts


def _read(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / files.CHECK, keep_default_na=False)


def _texts(row: Mapping[Any, Any]) -> list[str]:
    words = [line(row["cell"]), row["load"] or f"{row['concurrency']} in flight"]
    for name in PERCENTILES:
        words += [number(1e3 * row[f"{what}_{name}"], 4) for what in ("predicted", "measured")]
        words.append(f"{100 * row[f'error_{name}']:+.1f}")
    return words


def _cells(results: Results) -> list[Cell]:
    """The cells to which a simulation can be fitted. Raises `UsageError` if there are none."""
    if not results.fitting:
        results.chosen("")
    return results.fitting


def _system(run: Run) -> System:
    return system_of(run, fitted(run), Layout())


def _seconds(system: System, cell: Cell, measured: pd.DataFrame, seed: int) -> pd.Series[float]:
    """The simulated seconds of the requests of `measured`. Each block begins with an empty system, as when measured.

    Under an open-loop load the simulated requests arrive when the measured ones did: the slowest requests of a block
    depend more on its few arrival times than on the system.
    """
    found = []
    for place, (_, block) in enumerate(measured.groupby("block")):
        before = 0 if cell.load else lead(cell.concurrency, 1)
        clients = _gaps(block) if cell.load else cell.concurrency
        for each in range(REPETITIONS):
            draw = seed + place * REPETITIONS + each
            found.append(simulate(system, clients, before + len(block), draw).seconds[before:])
    return pd.Series(np.concatenate(found))


def _gaps(block: pd.DataFrame) -> Arrivals:
    """The seconds before each intended start of a block; none before the first."""
    starts = np.sort(block["start"].to_numpy(dtype=np.float64))
    return (0.0, *np.diff(starts).tolist())


def _percentiles(seconds: pd.Series[float]) -> Mapping[str, float]:
    return {name: float(seconds.quantile(share)) for name, (share, _) in PERCENTILES.items()}


INTRODUCTION = (
    "A simulation was fitted to each cell as it was measured with one request at a time, and to its closed loops of "
    "several clients, without those below. In the same rounds the cell was measured under open loads, to which nothing "
    "was fitted. Each load was simulated block by block, with the arrivals that were measured. Milliseconds; errors in "
    "percent of what was measured."
)
