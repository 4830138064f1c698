"""Corrects a profile by runs: a factor for the speed of each host, and for both costs of a message over each transport.

Each parameter is a factor of the profile's value. The fit minimises the squared relative errors of the cells' means;
beyond `SCALE` the loss grows linearly, so that a disturbed cell does not decide the result. To estimate how well the
parameters predict, half of the cells, drawn at random, are held out of a first fit. The advice uses a second fit over
all cells. fit.csv: `parameter`, `unit`, `profile` (the value before the fit), `value`, `low`, `high` (95 %).
predictions.csv: `cell`, `held_out` (1: the cell was not part of the fit that predicts it), `seconds` [s, the measured
mean], `predicted` [s], `error` (relative).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from scipy.optimize import least_squares
from scipy.special import stdtrit

from experiments.advise import measured
from experiments.advise.measured import Measured
from experiments.reports.markdown import number
from experiments.store import files
from experiments.store.files import replace_file
from experiments.store.profile import MISFIT, Profile
from experiments.store.rows import as_csv
from partitioning.cost_model import CostModel
from partitioning.part_costs import Estimate, MessageCost
from transports.errors import UsageError

SCALE = 0.05
"""Relative error of a cell beyond which the loss grows linearly."""
WITHIN = 0.1
"""Relative error up to which a prediction counts as `within`."""
TWICE = 2.0
"""The factor whose penalty equals the loss of a cell with the error `SCALE`. The penalty keeps parameters that no cell
determines at the profile's value."""
RANGE = 3.0
"""The largest factor, up or down, that a run can correct."""

LEAST = 8
"""Least cells of a fit."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Factors:
    """Factors of the profile's values, with their 95 % intervals: `speed HOST`, `call TRANSPORT`, `byte TRANSPORT`."""

    values: Mapping[str, float]
    low: Mapping[str, float]
    high: Mapping[str, float]

    def on(self, model: CostModel) -> CostModel:
        """The corrected model. Hosts and transports without a factor stay as they are."""
        of = self.values.get
        runs = {host: found.times(of(f"speed {host}", 1.0)) for host, found in model.runs.items()}
        messages = {
            name: MessageCost(
                *(cost.call.times(of(f"call {name}", 1.0)), cost.byte.times(of(f"byte {name}", 1.0))),
                *(cost.density, cost.misfit),
            )
            for name, cost in model.transports.items()
        }
        return replace(model, runs=runs, transports=messages)


def fitted(cells: Sequence[Measured]) -> Factors:
    """The factors that predict `cells` best."""
    hosts = dict.fromkeys(host for item in cells for host in item.placed.hosts)
    names = dict.fromkeys(item.placed.transport for item in cells)
    parameters = [
        *(f"speed {host}" for host in hosts),
        *(f"{kind} {name}" for name in names for kind in ("call", "byte")),
    ]
    seconds = np.asarray([item.seconds for item in cells])

    def errors(logs: Floats) -> Floats:
        factors = Factors(dict(zip(parameters, np.exp(logs), strict=True)), {}, {})
        return np.concatenate([np.log(predictions(cells, factors) / seconds), SCALE * logs / np.log(TWICE)])

    start = np.zeros(len(parameters))
    bound = np.full(len(parameters), np.log(RANGE))
    found = least_squares(errors, start, bounds=(-bound, bound), loss="soft_l1", f_scale=SCALE, diff_step=0.01)
    reach = _reach(found.jac, errors(found.x))
    values, low, high = (dict(zip(parameters, np.exp(found.x + side * reach), strict=True)) for side in (0, -1, 1))
    return Factors(values, low, high)


def predictions(cells: Sequence[Measured], factors: Factors) -> Floats:
    """Seconds of each cell."""
    models: dict[int, CostModel] = {}
    found = []
    for item in cells:
        if id(item.model) not in models:
            models[id(item.model)] = factors.on(item.model)
        found.append(models[id(item.model)].predict(item.placed).seconds.value)
    return np.asarray(found)


def _reach(slopes: Floats, errors: Floats) -> Floats:
    """Half widths of the 95 % intervals of the logarithms. `errors` ends with the penalties of the parameters."""
    cells = len(errors) - slopes.shape[1]
    spread = float(np.median(np.abs(errors[:cells]))) / 0.6745  # a standard deviation that resists outliers
    scales: Floats = np.sqrt(np.abs(np.diag(np.linalg.pinv(slopes.T @ slopes))))
    return float(stdtrit(max(1, cells - 1), 0.975)) * spread * scales


@dataclass(frozen=True)
class Checked:
    """Predictions of all cells by a fit from which some cells were held out."""

    cells: Sequence[Measured]
    predicted: Floats
    held_out: npt.NDArray[np.bool_]

    @property
    def errors(self) -> Floats:
        """Relative errors of all cells."""
        return np.asarray(self.predicted / [item.seconds for item in self.cells] - 1)

    def summary(self) -> dict[str, Any]:
        """Of the held-out cells: their number (`cells`), `median` error, and the share `within` the error `WITHIN`."""
        errors = np.abs(self.errors[self.held_out])
        return {"cells": len(errors), "median": float(np.median(errors)), "within": float((errors <= WITHIN).mean())}


def check(cells: Sequence[Measured], seed: int = 0) -> Checked:
    """Fit a random half of the cells and predict all."""
    held_out = np.random.default_rng(seed).permutation(len(cells)) % 2 == 1
    factors = fitted([item for item, held in zip(cells, held_out, strict=True) if not held])
    return Checked(cells, predictions(cells, factors), held_out)


def corrected(
    profile: Profile, model: CostModel, folders: Sequence[Path], console: Console, out: Path | None
) -> CostModel:
    """The model corrected by the runs in `folders`; prints the parameters and how well held-out cells are predicted."""
    unfit = [name for name, cost in model.transports.items() if cost.misfit > MISFIT]
    cells = [item for folder in folders for item in measured.read(profile, folder)]
    cells = [item for item in cells if item.placed.transport not in unfit]
    if len(cells) < LEAST:
        raise UsageError(f"--fit: {len(cells)} cells that the profile can predict, and a fit takes at least {LEAST}")
    checked, factors = check(cells, profile.experiment.seed), fitted(cells)
    rows = list(parameters(profile, model, factors))
    console.print(_table(rows))
    found = checked.summary()
    console.print(
        f"held out: {found['cells']} of {len(cells)} cells, median error {100 * found['median']:.2g} %, "
        f"{100 * found['within']:.3g} % within {100 * WITHIN:.0f} %",
        soft_wrap=True,
        highlight=False,
    )
    if out:
        out.mkdir(parents=True, exist_ok=True)
        replace_file(out / files.FIT, as_csv(list(rows[0]), rows))
        predicted = list(_predicted(checked))
        replace_file(out / files.PREDICTIONS, as_csv(list(predicted[0]), predicted))
    return factors.on(model)


def parameters(profile: Profile, model: CostModel, factors: Factors) -> list[dict[str, Any]]:
    """The rows of fit.csv."""
    found = []
    for name in factors.values:
        kind, _, which = name.partition(" ")
        if kind == "speed":
            runs = model.runs.get(which)
            before = runs.seconds(0, runs.operations) if runs else Estimate(float("nan"))
            title, unit = f"the whole model on {which}", "s"
        else:
            cost = profile.message_cost(which)
            before = cost.call if kind == "call" else cost.byte
            title, unit = (f"a message over {which}", "s") if kind == "call" else (f"a byte over {which}", "s/B")
        ends = [before.value * end[name] for end in (factors.values, factors.low, factors.high)]
        found.append(
            {"parameter": title, "unit": unit, "profile": before.value}
            | dict(zip(("value", "low", "high"), ends, strict=True))
        )
    return found


def _predicted(checked: Checked) -> Sequence[dict[str, Any]]:
    rows = zip(checked.cells, checked.predicted, checked.held_out, checked.errors, strict=True)
    return [
        {
            "cell": item.cell.name,
            "held_out": int(held),
            "seconds": item.seconds,
            "predicted": float(value),
            "error": float(error),
        }
        for item, value, held, error in rows
    ]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    made = Table(box=SIMPLE_HEAD, title="The profile, corrected by runs")
    for heading in ("parameter", "profile", "corrected", "95 %"):
        made.add_column(heading, justify="left" if heading == "parameter" else "right", no_wrap=True)
    for row in rows:
        scale, unit = (1e3, "ms") if row["unit"] == "s" else (1e9, "ns")
        texts = [number(scale * row[name], 3) for name in ("profile", "value", "low", "high")]
        made.add_row(row["parameter"], f"{texts[0]} {unit}", f"{texts[1]} {unit}", f"{texts[2]} to {texts[3]}")
    return made
