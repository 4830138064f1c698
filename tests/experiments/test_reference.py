"""The committed results: their columns, and that this version derives the same files from their samples."""

from __future__ import annotations

import csv
import re
import shutil
from itertools import islice
from pathlib import Path

import pytest

from experiments import report
from experiments.simulate import compared
from experiments.sizes import measure as sizes_measure
from experiments.store import environment, samples
from experiments.store.files import CHECK, CHECK_REPORT, ENVIRONMENT, REPORT_HTML, SAMPLES, SUMMARY, THREADS
from experiments.threads import report as threads_report
from tests.experiments.common import REFERENCE
from tools import advice_study
from tools.references import ALL, COMMANDS

FOLDERS = sorted(
    path.parent
    for path in REFERENCE.rglob(ENVIRONMENT)
    if (path.parent / SAMPLES).exists() or (path.parent / THREADS).exists()
)
DERIVED = (SUMMARY, "*.md", REPORT_HTML, "*.svg")

COLUMNS = {"cell": samples.COLUMNS, "way": sizes_measure.COLUMNS, "workers": threads_report.COLUMNS}
"""First column of a results folder -> all columns of its kind."""
ADDED = (
    *("label", "queue_seconds", "round", "near_ties", "on", "link", "load", "late_seconds", "missed"),
    *("trace", "wire", "pack_seconds", "unpack_seconds", "raw_bytes", "packed_bytes", "cosine", "top1"),
)
"""Columns that were added later, so older results lack them."""


def header(folder: Path) -> tuple[str, ...]:
    (path,) = (folder / name for name in (SAMPLES, THREADS) if (folder / name).exists())
    with path.open(newline="") as file:
        return tuple(next(csv.reader(file)))


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(REFERENCE)))
def test_every_column_was_measured(folder: Path) -> None:
    found = header(folder)
    assert found == tuple(name for name in COLUMNS[found[0]] if name not in ADDED or name in found)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: str(folder.relative_to(REFERENCE)))
def test_derived_files_are_derived_from_the_samples(folder: Path, tmp_path: Path) -> None:
    made = shutil.copytree(folder, tmp_path / folder.name, ignore=shutil.ignore_patterns(*DERIVED))
    assert report.main([str(made)]) == 0
    assert {path.name for path in made.iterdir()} == {path.name for path in folder.iterdir()}
    for path in (path for pattern in (SUMMARY, "*.md") for path in folder.glob(pattern)):
        assert (made / path.name).read_bytes() == path.read_bytes(), path.name
    assert without_charts(made / REPORT_HTML) == without_charts(folder / REPORT_HTML)


def without_charts(page: Path) -> str:
    """The page without its charts, which another version of matplotlib draws differently."""
    return re.sub(r"<figure.*?</figure>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
def test_the_simulation_is_derived_from_its_runs(tmp_path: Path) -> None:
    """The page, and the first two predictions: to derive all predictions would take a minute."""
    folder = REFERENCE / "simulation"
    for name in (CHECK, ENVIRONMENT):
        shutil.copy(folder / name, tmp_path / name)
    assert compared.write_page(tmp_path).read_bytes() == (folder / CHECK_REPORT).read_bytes()
    first = compared.as_csv(islice(compared.compare(folder, 0), 2))
    assert first.count("\n") == 3
    assert (folder / CHECK).read_text().startswith(first)


@pytest.mark.slow
def test_the_study_of_advice_is_derived_from_its_runs(tmp_path: Path) -> None:
    made = shutil.copytree(REFERENCE / "advice", tmp_path / "advice", ignore=shutil.ignore_patterns("study.*"))
    assert advice_study.main(["--out", str(made)]) == 0
    for name in ("study.csv", "study.md"):
        assert (made / name).read_bytes() == (REFERENCE / "advice" / name).read_bytes(), name


def test_every_reference_was_measured_by_its_command() -> None:
    assert sorted(ALL) == sorted(folder.name for folder in REFERENCE.iterdir())
    for name, words in COMMANDS.items():
        assert environment.read(REFERENCE / name)["command"] == [*words.split()[1:], "--out", f"results/new/{name}"]
    for path in REFERENCE.rglob(ENVIRONMENT):
        assert not environment.read(path.parent)["commit"]["dirty"], path
