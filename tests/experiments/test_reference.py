"""The committed results: what derives from their samples is what is derived today."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from experiments import report, sizes_report
from experiments.files import CHART, REPORT, SAMPLES, SIZES, SUMMARY

REFERENCE = Path(__file__).parents[2] / "results" / "reference"
FOLDERS = sorted(path.parent for path in REFERENCE.glob(f"*/{SAMPLES}"))
DERIVED = (SUMMARY, REPORT, CHART, SIZES)


BUILD: Mapping[str, Callable[[Path], Path]] = {"cell": report.build, "way": sizes_report.build}
"""What derives the rest, by the first column of the samples."""


def header(folder: Path) -> tuple[str, ...]:
    with (folder / SAMPLES).open(newline="") as file:
        return tuple(next(csv.reader(file)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_what_is_derived_is_derived_from_the_samples(folder: Path, tmp_path: Path) -> None:
    made = shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns(*DERIVED))
    BUILD[header(folder)[0]](made)
    assert {path.name for path in made.iterdir()} == {path.name for path in folder.iterdir()}
    for name in (SUMMARY, REPORT):
        assert (made / name).read_bytes() == (folder / name).read_bytes(), name
