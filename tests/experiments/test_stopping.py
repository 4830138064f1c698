"""Conditions that end a run early, and sections of the report about a steady machine."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from experiments import run
from experiments.measure.stopping import Stopping
from experiments.reports import report
from experiments.spec import flags
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store import samples
from experiments.store.intervals import MIN_BLOCKS
from experiments.store.samples import Sample
from experiments.store.statistics import drifts, twins
from tests.experiments.common import frame
from transports.errors import UsageError

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

GRPC = Cell()
LOCAL = local_of(GRPC)


def rounds_until_due(experiment: Experiment, noise: float, most: int = 40) -> int:
    """The number of rounds, of three requests per cell, after which the run would stop; `most` if not before."""
    rng, stopping = np.random.default_rng(3), Stopping(experiment)
    for number in range(most):
        for cell, level in ((LOCAL, 1.0), (GRPC, 2.0)):
            for run_number in range(3):
                seconds = level * float(np.exp(noise * rng.standard_normal()))
                stopping.add(Sample(cell, 3 * number + run_number, seconds, number, round=number))
        if stopping.due():
            return number + 1
    return most


@pytest.mark.parametrize(("percent", "noise", "least", "most"), [(5, 0.0, 5, 5), (5, 0.1, 6, 39), (1, 0.2, 40, 40)])
def test_rounds_go_on_until_every_ratio_is_known_well_enough(
    percent: float, noise: float, least: int, most: int
) -> None:
    experiment = Experiment((GRPC,), until_stable=percent).with_locals()
    assert least <= rounds_until_due(experiment, noise) <= most


def test_a_limit_ends_the_run_after_the_first_round_past_it() -> None:
    assert rounds_until_due(Experiment((GRPC,), limit=1e-9).with_locals(), 0.2) == 1
    assert rounds_until_due(Experiment((GRPC,), limit=3600).with_locals(), 0.2) == 40


def words(model: Path, out: Path, *more: str, runs: int = 400) -> list[str]:
    few = ["--transport", "none", "--mode", "submodel", "--servers", "2", "--engine", "frozen", "--runs", str(runs)]
    return ["--model", str(model), *few, "--out", str(out), *more]


def test_a_stable_run_ends_early_and_the_report_says_so(model: Path, tmp_path: Path) -> None:
    assert run.main(words(model, tmp_path / "out", "--until-stable", "90%")) == 0
    measured = samples.read(tmp_path / "out")
    rounds = measured["round"].nunique()
    assert MIN_BLOCKS <= rounds < 80
    assert (measured.groupby("cell").size() == 5 * rounds).all()
    text = (tmp_path / "out" / "report.md").read_text()
    assert f"{rounds} rounds were measured ({5 * rounds} of 400 requests of each cell)" in text
    assert "--until-stable 90 % ended the run. Every x / Local is known to within ±" in text


def test_a_limited_run_ends_early_and_the_report_says_so(model: Path, tmp_path: Path) -> None:
    assert run.main(words(model, tmp_path / "out", "--until-stable", "0.001", "--limit", "0.001")) == 0
    assert samples.read(tmp_path / "out")["round"].nunique() == 1
    text = (tmp_path / "out" / "report.md").read_text()
    assert "1 round was measured (5 of 400 requests of each cell); --limit 0.001 s ended the run" in text


@pytest.mark.parametrize("flag", [["--until-stable", "5"], ["--limit", "60"]])
@pytest.mark.parametrize("other", [["--order", "blocked"], ["--kill", "node-1@3"]])
def test_a_run_without_rounds_cannot_stop_after_one(flag: list[str], other: list[str]) -> None:
    with pytest.raises(UsageError, match=f"{flag[0]}: a run stops after a round; valid with --order shuffled"):
        flags.parse([*flag, *other])


@pytest.mark.parametrize("value", ["-1", "101", "5 %%", "much"])
def test_unusable_percentages_are_refused(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--until-stable", value]) == 2
    assert "valid: 0 to 100 percent" in capsys.readouterr().err


def test_the_same_cell_under_two_labels_is_compared_with_itself(model: Path, tmp_path: Path) -> None:
    assert run.main(words(model, tmp_path / "out", "--label", "a,b", runs=25)) == 0
    measured = samples.read(tmp_path / "out")
    assert sorted(measured["label"].unique()) == ["", "a", "b"]
    ((cell, base, (ratio, low, high)),) = twins(measured, 0)
    assert (cell.label, base.label) == ("b", "a")
    assert low < ratio < high
    text = (tmp_path / "out" / "report.md").read_text()
    assert "## The same cell under several labels" in text
    assert f"{int(low <= 1 <= high)} of 1 intervals contain it" in text
    assert re.search(r"^\| None, label b +\| None, label a +\| ", text, re.M)


def test_drift_is_the_change_from_the_first_to_the_last_third_of_the_blocks(tmp_path: Path) -> None:
    seconds = [1.0] * 10 + [1.1] * 10 + [1.25] * 10
    (tmp_path / "few").mkdir()
    assert drifts(frame(tmp_path, {LOCAL: seconds, GRPC: seconds}, block=5)) == {LOCAL: pytest.approx(0.25)}
    assert drifts(frame(tmp_path / "few", {LOCAL: seconds[:25]}, block=5)) == {}


def test_the_report_warns_of_a_drifting_local_model(make_results: Maker) -> None:
    folder = make_results([GRPC])
    steady = report.build(folder).read_text()
    assert "Drift of the local model, from the first to the last third of its blocks: +" in steady
    assert "WARNING" not in steady
    path = folder / samples.files.SAMPLES
    rows = samples.read(folder)
    drifting = rows.assign(seconds=rows["seconds"] * (1 + rows["run"] / 50))
    drifting.to_csv(path, index=False)
    assert "> **WARNING**: the local model drifted by more than 10 %" in report.build(folder).read_text()
