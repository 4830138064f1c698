"""Each notebook runs on the reference results, and on a run that the test makes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient

from experiments import run
from experiments.reports.report import build
from experiments.spec.experiment import Cell
from tests.running import ROOT

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

FOLDER = ROOT / "notebooks"
NAMES: Mapping[str, tuple[str, ...]] = {
    "document-tables": ("none", "tcp", "grpc"),
    "where-the-time-goes": ("none", "tcp", "grpc", "compute"),
    "which-cut": ("cut equal", "no link"),
    "which-transport": ("tcp", "grpc"),
}
"""Notebook -> headings that its table for the run `measured` has, among others."""
HEADINGS = {heading for headings in NAMES.values() for heading in headings}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def execute(name: str, where: Path) -> nbformat.NotebookNode:
    """The notebook with outputs, run in the folder `where`."""
    return NotebookClient(read(name), timeout=60, resources={"metadata": {"path": str(where)}}).execute()


def outputs(notebook: nbformat.NotebookNode, kind: str) -> list[str]:
    """The notebook's outputs of one kind: `text/html`, `image/png`, or `stream`, which is printed text."""
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    if kind == "stream":
        return [output.text for output in found if output.output_type == "stream"]
    return [output.data[kind] for output in found if kind in output.get("data", {})]


@pytest.fixture(scope="module")
def measured(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A traced run in real processes."""
    out = tmp_path_factory.mktemp("notebook") / "out"
    words = ["--model", str(model), "--mode", "submodel", "--servers", "2", "--engine", "frozen"]
    assert run.main([*words, "--transport", "none,tcp,grpc", "--runs", "25", "--trace", "on", "--out", str(out)]) == 0
    return out


def test_there_are_no_other_notebooks() -> None:
    assert sorted(path.stem for path in FOLDER.iterdir() if path.suffix == ".ipynb") == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_is_short_reads_only_results_and_stores_little(name: str) -> None:
    notebook = read(name)
    nbformat.validate(notebook)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "import experiments" not in code
    assert "from experiments" not in code
    assert len(code.splitlines()) <= 100
    assert notebook.cells[1].metadata.tags == ["parameters"]
    assert (FOLDER / f"{name}.ipynb").stat().st_size <= 150_000
    assert outputs(notebook, "image/png"), "make notebook"


@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_the_reference_results(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SPLITBENCH_RESULTS", raising=False)
    new = execute(name, FOLDER)
    assert outputs(new, "text/html") == outputs(read(name), "text/html"), "stored outputs are stale: make notebook"
    assert len(outputs(new, "image/png")) == len(outputs(read(name), "image/png"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_shows_a_run_made_on_the_spot(name: str, measured: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITBENCH_RESULTS", str(measured))
    notebook = execute(name, ROOT)
    (table,) = outputs(notebook, "text/html")
    assert {heading for heading in HEADINGS if f"<th>{heading}</th>" in table} == set(NAMES[name])
    assert len(outputs(notebook, "image/png")) == 1
    assert not any("Warning" in text for text in outputs(notebook, "stream"))


def test_several_folders_without_those_of_kills_and_a_torn_line(
    make_results: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(make_results([Cell("none"), Cell("rpyc"), Cell()], name="results/one"))
    build(make_results([Cell(mode="submodel", batch=batch) for batch in (1, 8)], name="results/other", runs=12))
    build(make_results([Cell(mode="submodel")], name="results/killed", kill="node-1@20"))
    (tmp_path / "results" / "killed" / "faults.csv").touch()
    path = tmp_path / "results" / "other" / "samples.csv"
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setenv("SPLITBENCH_RESULTS", str(tmp_path / "results"))
    notebook = execute("which-transport", ROOT)
    assert notebook.cells[2].outputs[-1].data["text/plain"] == "['one', 'other']"
    _, other = outputs(notebook, "text/html")
    assert "<th>grpc, 8</th>" in other


@pytest.mark.parametrize("name", NAMES)
def test_missing_results_are_a_clear_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITBENCH_RESULTS", str(tmp_path))
    parameters, reading, *_ = (cell.source for cell in read(name).cells if cell.cell_type == "code")
    with pytest.raises(FileNotFoundError, match="run an experiment, or set SPLITBENCH_RESULTS"):
        exec(f"{parameters}\n{reading}", {})
