"""Fits and regrets of cells whose seconds follow a cost model exactly, or with a known deviation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.advise import fit, regret
from experiments.advise.fit import Factors
from experiments.advise.measured import Measured, think_of
from experiments.advise.model import Asked, model_of
from experiments.spec.experiment import Cell
from experiments.store import profile as store
from partitioning.advice import Question, advise
from partitioning.cost_model import CostModel
from tests.experiments import profiles

LINKS = [f"edge<->cloud rtt:{rtt}ms,bandwidth:{rate}Mbit" for rtt, rate in ((1, 1000), (1, 100), (10, 50), (50, 10))]
TRUE = {"speed edge": 1.3, "speed cloud": 0.8, "call tcp": 1.5, "byte tcp": 1.2, "call grpc": 0.7, "byte grpc": 1.1}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, CostModel]]:
    """Each link, with the cost model over that link."""
    found = store.read(profiles.write(tmp_path_factory.mktemp("fit") / "profile"))
    return [(link, model_of(found, Asked(found.experiment, link))) for link in LINKS]


def cells(models: list[tuple[str, CostModel]], factors: dict[str, float], noise: float = 0.0) -> list[Measured]:
    """Every placed cut over every link. Its seconds are the prediction of the model with these factors, with noise."""
    rng, made = np.random.default_rng(0), []
    for link, model in models:
        true = Factors(factors, {}, {}).on(model)
        for item in advise(model, Question(top=100)).pool:
            seconds = true.predict(item.placed).seconds.value * np.exp(rng.normal(0, noise, 25))
            linked = link if item.cost.trips.delays else ""
            names = ["o0", *(f"o{at}" for at in item.placed.cuts)]
            whole = len(item.placed.hosts) == 1
            cell = Cell(
                transport=item.placed.transport,
                mode="whole" if whole else "submodel",
                servers=len(item.placed.hosts),
                cut="equal" if whole or item.placed.cuts == (2,) else names[-1],
                on="+".join(item.placed.hosts),
                link=linked,
            )
            frame = pd.DataFrame({"seconds": seconds, "round": np.arange(25) // 5, "missed": 0})
            made.append(Measured(cell, item.placed, model, frame))
    return list({item.cell: item for item in made}.values())


def test_the_pause_of_a_client_is_that_between_requests_of_a_block() -> None:
    frame = pd.DataFrame({"start": [0.0, 1.0, 2.5, 9.0], "seconds": [0.75, 1.25, 0.5, 1.0], "block": [0, 0, 0, 1]})
    assert think_of(frame.sample(frac=1, random_state=0)) == pytest.approx(0.25)
    assert think_of(frame.tail(1)) == 0


def test_factors_are_found(models: list[tuple[str, CostModel]]) -> None:
    found = fit.fitted(cells(models, TRUE))
    for name in ("speed edge", "speed cloud", "call tcp", "call grpc"):
        assert found.values[name] == pytest.approx(TRUE[name], rel=0.1)
        assert found.low[name] <= found.values[name] <= found.high[name]


def test_cells_that_are_held_out_are_predicted(models: list[tuple[str, CostModel]]) -> None:
    found = fit.check(cells(models, TRUE, noise=0.02)).summary()
    assert found["cells"] > 20
    assert found["median"] < 0.05
    assert found["within"] > 0.95


def test_a_disturbed_cell_does_not_decide(models: list[tuple[str, CostModel]]) -> None:
    disturbed = cells(models, TRUE)
    slow = disturbed[3].samples.assign(seconds=10 * disturbed[3].samples["seconds"])
    disturbed[3] = replace(disturbed[3], samples=slow)
    assert fit.fitted(disturbed).values["speed edge"] == pytest.approx(TRUE["speed edge"], rel=0.15)


def test_right_predictions_have_no_regret(models: list[tuple[str, CostModel]], tmp_path: Path) -> None:
    measured = cells(models, {})
    predicted = [item.predicted for item in measured]
    found = [regret.regret_of(link, measured, predicted, 0) for link in regret.links_of(measured)]
    assert [item.link for item in found] == LINKS
    assert all(item.value == 0 for item in found)
    assert all(item.equal >= 0 for item in found)
    regret.write(tmp_path, found)
    assert len((tmp_path / "regret.csv").read_text().splitlines()) == 1 + len(LINKS)


def test_a_wrong_prediction_costs_what_the_fastest_saves(models: list[tuple[str, CostModel]]) -> None:
    measured = cells(models, {}, noise=0.01)
    worst = max((item for item in measured if item.cell.link == LINKS[0]), key=lambda item: item.seconds)
    predicted = [0.0 if item is worst else item.seconds for item in measured]
    found = regret.regret_of(LINKS[0], measured, predicted, 0)
    assert found.value == pytest.approx(worst.seconds / found.best.seconds - 1)
    assert found.low <= found.value <= found.high


def test_ways_at_the_client_alone_are_one(models: list[tuple[str, CostModel]]) -> None:
    """No tensor crosses a link there, so transports are no choice, and noise between their cells is no regret."""
    measured = [item for item in cells(models, {}, noise=0.3) if item.cell.link in ("", LINKS[0])]
    alone = [item.placed.hosts == (item.model.client,) for item in measured]
    assert sum(alone) > 1
    found = regret.regret_of(LINKS[0], measured, [0.0 if there else 1.0 for there in alone], 0)
    assert len(found.advised.samples) == 25 * sum(alone)
    assert found.ways == len(measured) - sum(alone) + 1
