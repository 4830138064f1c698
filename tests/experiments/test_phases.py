"""phases.csv, its columns in the summary, and the section "Where the time goes"."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.reports import phases as section
from experiments.reports import report
from experiments.spec.experiment import Cell, local_of
from experiments.store import files, phases
from experiments.store.phases import HopPhases
from experiments.trace.__main__ import main
from tests.experiments.common import tables_of
from tests.experiments.conftest import Maker
from transports.errors import UsageError

PLAIN = Cell(transport="grpc", mode="submodel", servers=2)
TRACED = replace(PLAIN, trace="on")
HUB = replace(TRACED, flow="hub")


def write(folder: Path, cell: Cell, hops: Mapping[str, Mapping[str, float]], runs: int = 2, dropped: int = 0) -> None:
    """Write phases.csv, in which each request of `cell` has the same seconds. A second cell's rows are appended."""
    path = folder / files.PHASES
    before = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    with phases.writer(folder) as writer:
        for run in range(runs):
            for hop, seconds in hops.items():
                uncertain = 0.0 if hop == "client" else 0.0004
                writer.append(HopPhases(cell, run, run // 5, hop, seconds, -0.5 * uncertain, uncertain, dropped))
    if before:
        path.write_text(before + path.read_text().partition("\n")[2])


HOPS = {
    "client": {"route": 0.001, "encode": 0.002},
    "server-0": {"compute": 0.004, "send": 0.001},
    "server-10": {"compute": 0.002, "wait": 0.003},
    "server-2": {"other": 0.0},
}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    write(tmp_path, TRACED, HOPS)
    found = phases.read(tmp_path)
    assert tuple(found.columns) == phases.COLUMNS
    assert len(found) == 8
    first = found.iloc[1]
    assert (first["hop"], first["compute"], first["queue"], first["clock_offset"]) == ("server-0", 0.004, 0.0, -0.0002)
    assert sorted(found["hop"].unique(), key=phases.order) == ["client", "server-0", "server-2", "server-10"]


@pytest.mark.parametrize(("old", "new"), [("0.004", "-0.004"), (",0,", ",much,"), ("compute", "computed")])
def test_another_table_is_refused(old: str, new: str, tmp_path: Path) -> None:
    write(tmp_path, TRACED, HOPS)
    path = tmp_path / files.PHASES
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(UsageError, match=files.PHASES):
        phases.read(tmp_path)


def test_the_summary_has_means_per_request_of_traced_cells(tmp_path: Path) -> None:
    write(tmp_path, TRACED, HOPS)
    summary = pd.DataFrame({"cell": [PLAIN.name, TRACED.name]})
    plain, traced = phases.summarised(summary, phases.read(tmp_path)).to_dict("records")
    assert all(np.isnan(plain[name]) for name in phases.SUMMARY)
    assert {name: traced[name] for name in phases.SUMMARY if traced[name]} == {
        "phase_compute": pytest.approx(0.006),
        "phase_encode": pytest.approx(0.002),
        "phase_route": pytest.approx(0.001),
        "phase_send": pytest.approx(0.001),
        "phase_wait": pytest.approx(0.003),
    }
    bare = phases.summarised(summary, phases.NONE)
    assert list(bare.columns) == ["cell", *phases.SUMMARY]
    assert bare[list(phases.SUMMARY)].isna().all().all()


def test_the_report_shows_where_the_time_goes(make_results: Maker) -> None:
    folder = make_results([PLAIN, TRACED, HUB], runs=10)
    write(folder, TRACED, HOPS, runs=10)
    write(folder, HUB, {"client": {"send": 0.02}}, runs=10)
    text = report.build(folder).read_text()
    part = text[text.index(f"## {section.TITLE}") :]
    header, hub, nested = tables_of(part)[0]
    assert header[:3] == ["Cell", "Request (ms)", "Compute (ms)"]
    assert "Queue (ms)" not in header
    assert header[-1] == "Wait for inputs (ms)"
    assert nested[1:3] == ["10.00", "6.00 (60.0 %)"]
    assert nested[-1] == "3.00 (30.0 %)"
    assert hub[1:] == ["20.00", "—", "—", "—", "20.0 (100.0 %)", "—"]
    assert f"({files.PHASES_CHART})" in part
    assert "known to within 0.40 ms" in part
    drawn = (folder / files.PHASES_CHART).read_text()
    assert [drawn.count(f">{hop}<") for hop in ("client", "server 0", "server 2", "server 10")] == [2, 1, 1, 1]
    page = (folder / files.REPORT_HTML).read_text()
    assert f"<h2>{section.TITLE}</h2>" in page
    assert 'class="picture scroll phases"' in page
    names = (files.REPORT, files.REPORT_HTML, files.SUMMARY, files.PHASES_CHART)
    written = {name: (folder / name).read_bytes() for name in names}
    report.build(folder)
    assert written == {name: (folder / name).read_bytes() for name in names}


def test_spans_that_were_dropped_are_told(make_results: Maker) -> None:
    """Ten requests in two blocks over two hops. Each hop dropped seven spans in each block."""
    folder = make_results([TRACED], runs=10)
    write(folder, TRACED, {"client": {"route": 0.1}, "server-0": {"send": 0.1}}, runs=10, dropped=7)
    assert "> **WARNING**: 28 spans were dropped" in report.build(folder).read_text()


def test_a_report_without_traced_cells_has_no_such_section(make_results: Maker) -> None:
    folder = make_results([PLAIN])
    assert section.TITLE not in report.build(folder).read_text()
    assert not (folder / files.PHASES_CHART).exists()


def test_a_label_says_of_which_cell_the_trace_is_on(make_results: Maker) -> None:
    folder = make_results([PLAIN, TRACED])
    text = report.build(folder).read_text()
    assert TRACED.name.endswith("/trace=on")
    assert "trace on" in text
    assert local_of(TRACED) == local_of(PLAIN)


@pytest.mark.parametrize("words", [[], ["--otlp", "http://127.0.0.1:1"]])
def test_a_folder_without_a_trace_is_refused(
    words: list[str], make_results: Maker, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_results([PLAIN])
    assert main([str(folder), *words]) == 2
    err = capsys.readouterr().err
    assert "measure again with --trace" in err
    assert err.count("\n") == 1
    assert main([str(folder / "nowhere"), *words]) == 2
