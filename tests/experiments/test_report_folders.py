"""`splitbench report` on folders of other versions, on half a run, and on folders that hold no results."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest

from experiments.report import main
from experiments.reports.report import build
from experiments.spec.experiment import Cell
from experiments.store import environment, samples

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

LAYER = [Cell(name) for name in ("none", "rpyc", "rpyc-tuned", "grpc")]
REPORTS = ("summary.csv", "report.md", "cells.md", "report.html")


def _older(folder: Path) -> None:
    """Change the folder to that of version 0.1: without the later columns, and without later entries of the record."""
    path = folder / "samples.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.drop(columns=[name for name in samples.LATER if name in frame]).to_csv(path, index=False)
    record = environment.read(folder)["experiment"]
    cells = [{name: cell[name] for name in cell if name not in samples.LATER} for cell in record["cells"]]
    known = {name: value for name, value in record.items() if name not in ("until_stable", "limit", "cluster", "hosts")}
    environment.update(folder, experiment=known | {"cells": cells})


def _half(folder: Path) -> None:
    """Change the folder to that of a killed run: a torn line, no end, and half a plan."""
    path = folder / "samples.csv"
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 3])
    environment.update(folder, complete=False, failure=environment.UNFINISHED, ended=None)
    (folder / "plan-layer.json").write_text('{"mode": "layer", "stages": [')


def _newer(folder: Path) -> None:
    """Add a column and an entry of the record that this version does not know."""
    path = folder / "samples.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.assign(photons="7").to_csv(path, index=False)
    record = environment.read(folder)["experiment"]
    environment.update(folder, experiment=record | {"photons": "on"})


@pytest.mark.parametrize("change", [_older, _half, _newer])
def test_a_folder_of_another_version_or_half_a_run_is_reported_or_refused_in_one_line_and_loses_nothing(
    make_results: Maker, capsys: pytest.CaptureFixture[str], change: Callable[[Path], None]
) -> None:
    folder = build(make_results(LAYER)).parent
    change(folder)
    kept = [path for path in folder.iterdir() if path.suffix != ".svg" and path.name not in REPORTS]
    measured = {path.name: path.read_bytes() for path in kept}
    for name in REPORTS:
        (folder / name).unlink()
    status = main([str(folder)])
    out, err = capsys.readouterr()
    assert {name: (folder / name).read_bytes() for name in measured} == measured
    if change is _newer:
        assert status == 2
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert "photons" in err
    else:
        assert (status, out) == (0, f"{folder / 'report.md'}\n")
        assert all((folder / name).exists() for name in REPORTS)


def _spoil(folder: Path, kind: str) -> list[str]:
    if kind == "no environment":
        (folder / "environment.json").unlink()
    elif kind == "no samples":
        (folder / "samples.csv").unlink()
    elif kind == "foreign samples":
        (folder / "samples.csv").write_text("a,b\n1,2\n")
    elif kind == "foreign experiment":
        (folder / "environment.json").write_text(json.dumps({"complete": True, "failure": "", "experiment": {}}))
    elif kind == "a file":
        return [str(folder / "samples.csv")]
    elif kind == "no folder":
        return [str(folder / "nowhere")]
    return [] if kind == "no argument" else [str(folder)]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("no folder", "no folder"),
        ("a file", "no folder"),
        ("no environment", "cannot read"),
        ("no samples", "cannot read"),
        ("foreign samples", "is no samples file"),
        ("foreign experiment", "no record of an experiment"),
        ("no argument", "the following arguments are required: FOLDER"),
    ],
)
def test_an_unusable_folder_is_refused_in_one_line(
    make_results: Maker, capsys: pytest.CaptureFixture[str], kind: str, message: str
) -> None:
    assert main(_spoil(make_results([Cell()], runs=1), kind)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1
