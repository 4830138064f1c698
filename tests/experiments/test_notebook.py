"""The notebook runs from its own folder and from the root, over one results folder or several."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pytest
from nbclient import NotebookClient

from experiments.reports.report import build
from experiments.spec.experiment import Cell
from tests.running import ROOT

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

NOTEBOOK = ROOT / "notebooks" / "comparison.ipynb"


def execute(where: Path) -> nbformat.NotebookNode:
    """The notebook with outputs, run in the folder `where`."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return NotebookClient(notebook, timeout=60, resources={"metadata": {"path": str(where)}}).execute()


def images(notebook: nbformat.NotebookNode) -> int:
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


def test_the_notebook_is_valid_and_reads_only_results() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert "import experiments" not in code
    assert "from experiments" not in code
    assert notebook.cells[1].metadata.tags == ["parameters"]


def test_several_experiments_from_the_notebook_folder(
    make_results: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(make_results([Cell("none"), Cell("rpyc"), Cell()], name="results/seed-layer"))
    build(make_results([Cell(mode="submodel")], name="results/other", runs=12))
    build(make_results([Cell(mode="submodel")], name="results/killed", kill="node-1@20"))
    (tmp_path / "results" / "killed" / "faults.csv").touch()
    path = tmp_path / "results" / "other" / "samples.csv"
    path.write_bytes(path.read_bytes()[:-40])
    monkeypatch.setenv("SPLITBENCH_RESULTS", str(tmp_path / "results"))
    notebook = execute(NOTEBOOK.parent)
    assert images(notebook) == 3
    assert "['seed-layer', 'other']" in str(notebook.cells[2].outputs)


def test_one_experiment_without_published_figures_from_the_root(
    make_results: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of its many cells has its mean, under a short name."""
    cut = "+".join(f"expanded_conv_{stage}_expand" for stage in range(9))
    cells = [Cell("none", engine="graph", batch=batch) for batch in range(1, 36)]
    folder = build(make_results([*cells, Cell(mode="submodel", engine="graph", cut=cut)], runs=2)).parent
    monkeypatch.setenv("SPLITBENCH_RESULTS", str(folder))
    notebook = execute(ROOT)
    assert images(notebook) == 2
    (table,) = (output for output in notebook.cells[4].outputs if "data" in output)
    html = table.data["text/html"]
    assert html.count("/b") == 35 + 36  # each cell, and the local model of each batch
    assert "..." not in html
    assert "cut=named" in html


def test_missing_results_are_a_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITBENCH_RESULTS", str(tmp_path))
    parameters, reading, *_ = (cell.source for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code")
    with pytest.raises(FileNotFoundError, match="run an experiment, or set SPLITBENCH_RESULTS"):
        exec(f"{parameters}\n{reading}", {})
