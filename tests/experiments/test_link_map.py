"""Which cut is fastest over which link: the table, the heat map, and experiments without several links."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.execute import show
from experiments.reports import link_map, report
from experiments.reports.labels import Settings
from experiments.spec.experiment import Cell, Experiment
from experiments.store import environment, files
from tests.experiments.common import frame, tables_of

NEAR, FAR = "edge<->cloud rtt:1ms,bandwidth:1000Mbit", "edge<->cloud rtt:200ms,bandwidth:5Mbit"
CUT = Cell(transport="tcp", mode="submodel", servers=2, cut="a", on="edge+cloud")
CLOUD = Cell(transport="tcp", mode="whole", servers=1, on="cloud")
EDGE = Cell(transport="tcp", mode="whole", servers=1, on="edge")
LOCAL = Cell(transport="none", mode="whole", servers=1)
SECONDS = {
    LOCAL: 0.001,
    replace(CLOUD, link=NEAR): 0.013,
    replace(CLOUD, link=FAR): 0.9,
    replace(CLOUD, link=NEAR, transport="rpyc"): 0.02,
    replace(CLOUD, link=FAR, transport="rpyc"): 0.4,
    replace(CUT, link=NEAR): 0.012,
    replace(CUT, link=FAR): 0.23,
    EDGE: 0.018,
}
"""Cell -> mean seconds of its requests."""


def measured(folder: Path, seconds: dict[Cell, float]) -> tuple[Experiment, pd.DataFrame]:
    """An experiment with five rounds of each cell; the seconds of its requests differ by up to 2 % between rounds."""
    values = {cell: [mean * (0.98 + 0.01 * (run // 5)) for run in range(25)] for cell, mean in seconds.items()}
    return Experiment(tuple(seconds), title="Links"), frame(folder, values, block=5, rounds=True)


def test_each_row_has_its_fastest_transport_over_each_link(tmp_path: Path) -> None:
    experiment, samples = measured(tmp_path, SECONDS)
    found = link_map.LinkMap.of(experiment, samples)
    assert found is not None
    assert list(found.links) == [NEAR, FAR]
    assert [row.on for row in found.rows] == ["cloud", "edge+cloud", "edge"]
    cloud, cut, edge = found.rows
    assert [found.best[cloud, link].transport for link in found.links] == ["tcp", "rpyc"]
    assert found.best[edge, NEAR] == found.best[edge, FAR] == EDGE  # no link lies between the client and the edge
    assert found.ranked(NEAR) == [cut, cloud, edge]
    assert found.ranked(FAR) == [edge, cut, cloud]


def test_the_ranking_compares_the_two_fastest_rows_with_an_interval(tmp_path: Path) -> None:
    experiment, samples = measured(tmp_path, SECONDS)
    found = link_map.LinkMap.of(experiment, samples)
    assert found is not None
    near, far = link_map.ranking(found, Settings(found.rows), experiment.seed)
    assert near[:6] == ["rtt:1ms, bandwidth:1000Mbit", "cut a", "TCP", "12.0", "whole on cloud", "13.0"]
    assert far[:6] == ["rtt:200ms, bandwidth:5Mbit", "whole on edge", "TCP", "18.0", "cut a", "230"]
    assert near[6].startswith("0.923 (0.92")
    assert far[6].startswith("0.0783 (0.078")


def test_a_report_has_the_section_and_the_picture(tmp_path: Path) -> None:
    experiment, samples = measured(tmp_path, SECONDS)
    lines = link_map.section(experiment, samples, tmp_path, {})
    ((head, *body),) = tables_of("\n".join(lines))
    assert tuple(head) == link_map.HEADER
    assert [row[1] for row in body] == ["cut a", "whole on edge"]
    picture = (tmp_path / files.LINK_MAP).read_text()
    for text in ("whole on cloud", "cut a", "whole on edge", "13 ms", "230 ms", "RPyC", "bandwidth:5Mbit"):
        assert f">{text}<" in picture
    assert f"]({files.LINK_MAP})" in "\n".join(lines)


@pytest.mark.parametrize(
    "kept",
    [
        {cell: mean for cell, mean in SECONDS.items() if cell.link != FAR},
        {cell: mean for cell, mean in SECONDS.items() if cell in (LOCAL, EDGE)},
        {cell: mean for cell, mean in SECONDS.items() if cell.mode == "submodel" or cell == LOCAL},
    ],
    ids=["one link", "no link", "one way to cut"],
)
def test_without_several_links_and_cuts_there_is_no_section(kept: dict[Cell, float], tmp_path: Path) -> None:
    experiment, samples = measured(tmp_path, kept)
    assert link_map.section(experiment, samples, tmp_path, {}) == []
    assert not (tmp_path / files.LINK_MAP).exists()


def test_a_row_that_lacks_a_link_is_left_out(tmp_path: Path) -> None:
    """An interrupted run may not have measured a row over every link."""
    experiment, samples = measured(tmp_path, {cell: mean for cell, mean in SECONDS.items() if cell != CUT})
    left = samples[samples["cell"] != replace(CUT, link=FAR).name]
    found = link_map.LinkMap.of(experiment, left)
    assert found is not None
    assert [row.on for row in found.rows] == ["cloud", "edge"]


def test_links_without_the_same_words_keep_their_ends(tmp_path: Path) -> None:
    both = f"{NEAR}; client<->cloud rtt:5ms"
    seconds = {replace(cell, link=both) if cell.link == NEAR else cell: mean for cell, mean in SECONDS.items()}
    experiment, samples = measured(tmp_path, seconds)
    found = link_map.LinkMap.of(experiment, samples)
    assert found is not None
    (near, _) = link_map.ranking(found, Settings(found.rows), experiment.seed)
    assert near[0] == "edge<->cloud rtt:1ms, bandwidth:1000Mbit; client<->cloud rtt:5ms"


def test_a_terminal_shows_a_row_for_each_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    experiment, _ = measured(tmp_path, SECONDS)
    environment.begin(tmp_path, experiment, [])
    environment.finish(tmp_path)
    report.build(tmp_path)
    show([tmp_path])
    shown = " ".join(capsys.readouterr().out.split())
    assert "cut a" in shown
    assert "rtt:1ms" in shown
    assert "…" not in shown
