"""The chart of an experiment: its labels, its title, and what replaces it without matplotlib."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from experiments.reports.labels import Settings
from experiments.reports.report import build
from experiments.spec.experiment import Cell, local_of

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

LAYER = [Cell(name) for name in ("none", "rpyc", "rpyc-tuned", "grpc")]
CUT = "+".join(f"expanded_conv_{stage}_expand" for stage in (4, 7, 11, 13))


def chart(folder: Path) -> str:
    return (build(folder).parent / "comparison.svg").read_text()


def test_without_matplotlib_the_report_says_how_to_get_it(make_results: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = make_results(LAYER)
    text = build(folder).read_text(encoding="utf-8")
    assert "No chart: it needs matplotlib" in text
    assert "pip install" in text
    assert not (folder / "comparison.svg").exists()
    assert (folder / "summary.csv").exists()


def test_the_chart_is_an_svg_with_every_cell_but_the_local_model(make_results: Maker) -> None:
    text = chart(make_results(LAYER))
    assert text.startswith("<?xml")
    assert "<svg" in text
    for label in ("None", "RPyC", "RPyC tuned", "gRPC", "local model", "source document"):
        assert f">{label}<" in text
    assert "none/whole" not in text


def test_the_legend_names_intervals_only_if_there_are_some(make_results: Maker) -> None:
    assert ">measured, 95 % interval<" in chart(make_results(LAYER))
    assert ">measured<" in chart(make_results(LAYER, "short", runs=10))


def test_labels_say_what_differs_and_the_title_what_all_cells_share(make_results: Maker) -> None:
    cells = [Cell(name, "submodel", engine="frozen", batch=batch) for name in ("none", "grpc") for batch in (1, 8)]
    text = chart(make_results([*cells, Cell("grpc", "submodel", engine="frozen", codec="tensorproto")]))
    for label in ("None, batch 1", "gRPC, batch 8", "gRPC, tensorproto codec, batch 1"):
        assert f">{label}<" in text
    assert ">submodel, nested, frozen engine, 5 servers<" in text


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_named_cuts_leave_room_for_the_chart(make_results: Maker) -> None:
    """Long labels make matplotlib warn and collapse the axes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = chart(make_results([Cell(mode="submodel", cut=CUT), Cell("rpyc", "submodel"), Cell(mode="submodel")]))
    for label in ("gRPC, cut 1", "RPyC, cut equal", "gRPC, cut equal"):
        assert f">{label}<" in text
    assert f"cut 1: before {CUT.split('+')[0]}" in text


@pytest.mark.parametrize(
    ("cells", "labels", "constant"),
    [
        ([Cell()], ["gRPC"], "layer, nested, eager engine, batch 1, 5 servers, raw codec"),
        ([Cell(), Cell("rpyc", flow="hub")], ["gRPC, nested", "RPyC, hub"], None),
        ([Cell(registry="per-hop")], ["gRPC"], None),
        ([local_of(Cell()), local_of(Cell(batch=8))], ["Local, batch 1", "Local, batch 8"], None),
        (
            [Cell(concurrency=4), Cell(repeats=8)],
            ["gRPC, 4 in flight, 0 repeats", "gRPC, 1 in flight, 8 repeats"],
            None,
        ),
        ([], [], ""),
    ],
)
def test_settings_in_words(cells: list[Cell], labels: list[str], constant: str | None) -> None:
    settings = Settings(cells)
    assert [settings.label(cell) for cell in cells] == labels
    assert len(set(labels)) == len(cells)
    if constant is not None:
        assert set(settings.constant.split(", ")) == set(constant.split(", "))
    if cells == [Cell(registry="per-hop")]:
        assert settings.constant.endswith("registry per-hop")
