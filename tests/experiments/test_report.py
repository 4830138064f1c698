"""The report: golden files, reproducibility, and reports of experiments that failed.

After an intended change, `SPLITBENCH_REGENERATE=1 pytest tests/experiments/test_report.py` writes the golden files
again; read the difference before you commit it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from experiments.reports import sections
from experiments.reports.answer import NOTHING
from experiments.reports.markdown import ABSENT
from experiments.reports.published import figures_for
from experiments.reports.report import build, summary_of
from experiments.reports.terminal import render_table
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.store import samples
from partitioning.input_options import VARIANTS
from tests.experiments.common import tables_of

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

GOLDEN = Path(__file__).parent / "golden"
LAYER = [Cell(name) for name in ("none", "rpyc", "rpyc-tuned", "grpc")]
SUBMODEL = [Cell(name, "submodel") for name in ("none", "grpc")]

CASES = {
    "document": ([*LAYER, *SUBMODEL], {"rounds": False, "block": 10}),
    "rounds": ([Cell("none", "submodel"), Cell("grpc", "submodel")], {}),
    "settings": (
        [
            Cell("none", engine="graph", batch=8),
            Cell("grpc", engine="graph", batch=8),
            Cell("grpc", engine="graph", batch=8, codec="tensorproto", send="tensor"),
            Cell("grpc", "whole", servers=1),
            Cell("grpc", "submodel", cut="add_1+add|2", servers=2),
        ],
        {"runs": 12, "complete": False, "failure": "cell x: server 3 went away\n| and <more>"},
    ),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("file", ["report.md", "cells.md", "summary.csv"])
def test_golden(make_results: Maker, name: str, file: str) -> None:
    cells, record = CASES[name]
    folder = build(make_results(cells, **record)).parent
    golden = GOLDEN / f"{name}-{file}"
    if os.environ.get("SPLITBENCH_REGENERATE"):
        golden.write_bytes((folder / file).read_bytes())
    assert (folder / file).read_text(encoding="utf-8") == golden.read_text(encoding="utf-8")


def test_the_report_is_reproducible_to_the_byte(make_results: Maker) -> None:
    folder = make_results(LAYER)
    names = ("summary.csv", "report.md", "cells.md", "report.html", "comparison.svg", "distributions.svg")
    build(folder)
    first = {name: (folder / name).read_bytes() for name in names}
    command = [sys.executable, "-m", "experiments.report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder / "report.md")
    assert {name: (folder / name).read_bytes() for name in names} == first
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "samples.csv", "environment.json"])


PROSE = ("Answer", "Beside the local model", "How it was measured")
"""Sections of report.md without a table."""


@pytest.mark.parametrize("name", CASES)
def test_a_markdown_parser_finds_every_table(make_results: Maker, name: str) -> None:
    cells, record = CASES[name]
    report = build(make_results(cells, **record))
    for path, others in ((report, PROSE), (report.parent / "cells.md", ("How to read this",))):
        text = path.read_text(encoding="utf-8")
        made = tables_of(text)
        headings = re.findall(r"^## (.*)$", text, flags=re.MULTILINE)
        assert len(made) == len([heading for heading in headings if heading not in others])
        assert all(len(row) == len(rows[0]) for rows in made for row in rows)
        for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
            assert len({len(row) for row in block.splitlines()}) == 1  # aligned as text, too


def test_tables_have_the_shape_of_the_source_document(make_results: Maker) -> None:
    layer, submodel, *_ = tables_of(build(make_results([*LAYER, *SUBMODEL])).read_text(encoding="utf-8"))
    assert layer[0] == ["Data on 50 runs", "Local", "None", "RPyC", "RPyC tuned", "gRPC"]
    assert [row[0] for row in layer[1:4]] == ["Mean (s)", "Std Dev (s)", "x / Local"]
    assert submodel[0] == ["Data on 50 runs", "Local", "None", "gRPC"]
    assert layer[-3:] == [
        ["Published mean (s)", "0.54863", ABSENT, "2.4724", ABSENT, "1.4204"],
        ["Published std dev (s)", "0.04415", ABSENT, "0.6125", ABSENT, "0.1221"],
        ["Published x / Local", "1", ABSENT, "4.5065", ABSENT, "2.5889"],
    ]
    assert submodel[-3:] == [
        ["Published mean (s)", "0.52443", ABSENT, "0.60116"],
        ["Published std dev (s)", "0.02925", ABSENT, "0.02863"],
        ["Published x / Local", "1", ABSENT, "1.1463"],
    ]


@pytest.mark.parametrize(
    ("cell", "group", "mean"),
    [
        (Cell(), Cell(), 1.42036),
        (Cell("rpyc"), Cell(), 2.47241),
        (Cell("rpyc", servers=2), Cell(servers=2), 2.47241),
        (local_of(Cell()), Cell(), 0.54863),
        (local_of(Cell()), Cell(mode="submodel"), 0.52443),
        (Cell(mode="submodel"), Cell(mode="submodel"), 0.60116),
        (Cell(mode="submodel", servers=2), Cell(mode="submodel", servers=2), None),
        (local_of(Cell()), Cell(mode="submodel", servers=2), None),
        (Cell("rpyc", "submodel"), Cell(mode="submodel"), None),
        (Cell("rpyc-tuned"), Cell(), None),
        (Cell("none"), Cell(), None),
        (Cell(engine="graph"), Cell(engine="graph"), None),
        (Cell(batch=2), Cell(batch=2), None),
        (Cell(mode="whole", servers=1), Cell(mode="whole", servers=1), None),
    ],
)
def test_which_cells_have_published_figures(cell: Cell, group: Cell, mean: float | None) -> None:
    found = figures_for(cell, group)
    assert (found.mean if found else None) == mean


def _with_wire(folder: Path, wire: dict[str, int]) -> Path:
    """The folder; its samples now have the wire bytes of some transports."""
    path = folder / "samples.csv"
    frame = pd.read_csv(path)
    frame.assign(wire_bytes=frame["transport"].map(wire).astype("Int64")).to_csv(path, index=False)
    return folder


def test_wire_bytes_are_shown_if_they_were_measured(make_results: Maker) -> None:
    payload = 41 * 150_528
    folder = _with_wire(make_results(LAYER), {"none": 0, "grpc": 2 * payload, "rpyc": payload})
    text = build(folder).read_text(encoding="utf-8")
    layer, *_ = tables_of(text)
    rows = {row[0]: row[1:] for row in layer}
    assert rows["Wire (MB)"] == ["0", "0", "6.1716", ABSENT, "12.343"]
    assert rows["Wire / payload"] == [ABSENT, ABSENT, "1", ABSENT, "2.0000"]
    assert "**Wire** is the median" in (folder / "cells.md").read_text(encoding="utf-8")


def test_a_cell_over_unix_sockets_has_no_wire_bytes(make_results: Maker) -> None:
    folder = make_results([Cell(name) for name in ("grpc", "unix")])
    text = build(_with_wire(folder, {"none": 0, "grpc": 10_000_000})).read_text(encoding="utf-8")
    (layer, *_) = tables_of(text)
    assert {row[0]: row[1:] for row in layer}["Wire (MB)"] == ["0", "10", ABSENT]
    reading = (folder / "cells.md").read_text(encoding="utf-8")
    assert "- Messages over Unix sockets do not cross the loopback interface" in reading


def test_without_wire_bytes_the_report_does_not_mention_them(make_results: Maker) -> None:
    plain = build(make_results(LAYER)).read_text(encoding="utf-8")
    none = build(_with_wire(make_results(LAYER, name="none"), {"none": 0})).read_text(encoding="utf-8")
    assert "Wire" not in plain
    assert none == plain


def words_of(experiment: Experiment) -> tuple[str, dict[str, str]]:
    """The report's overview, and the settings in its last table."""
    (first,) = sections.overview(experiment)
    (rows,) = tables_of("\n".join(sections.environment({"experiment": {}}, experiment)))
    return first, dict(rows)


def test_the_overview_states_order_and_concurrency() -> None:
    plain, _ = words_of(Experiment((Cell(),)))
    assert "after 5 warm-up requests, one at a time, in blocks, order shuffled. " in plain
    assert plain.endswith("start of each block that do not count: 1.")
    crowded, _ = words_of(Experiment((Cell(concurrency=4),), kill="node-1@20").with_locals())
    assert "with 1 or 4 requests in flight, in blocks, order blocked. " in crowded
    assert crowded.endswith("start of each block that do not count: 1 or 4.")
    twins, _ = words_of(Experiment((Cell(),), replicas=2))
    assert twins.endswith("start of each block that do not count: 2.")


@pytest.mark.parametrize(("warmup", "made"), [(0, VARIANTS), (1, VARIANTS), (VARIANTS + 1, VARIANTS + 1)])
def test_the_overview_states_the_actual_number_of_warm_up_requests(warmup: int, made: int) -> None:
    """Every variant of the input is sent at least once."""
    assert f"after {made} warm-up requests" in words_of(Experiment((Cell(),), warmup=warmup))[0]


def test_the_environment_lists_settings_that_are_not_the_default() -> None:
    _, plain = words_of(Experiment((Cell(),)))
    assert plain["TLS"] == "none"
    extra = {
        "Pinned to cores": "on",
        "Lease (s)": "1.0",
        "Kill": "node-1@20",
        "Host": "::1",
        "Largest message (B)": "9",
    }
    assert not set(extra) & set(plain)
    _, words = words_of(Experiment((Cell(),), pin="on", lease=1.0, kill="node-1@20", host="::1", max_message=9))
    assert words == plain | extra


@pytest.mark.parametrize("setting", [{"tls_cert": "mine.pem"}, {"option": {"grpc.tls_cert": "mine.pem"}}])
def test_the_environment_lists_the_transports_with_tls(setting: dict[str, Any]) -> None:
    _, words = words_of(Experiment((Cell("none"), Cell("grpc")), **setting))
    assert words["TLS"] == "mutual (grpc)"


def test_the_report_of_an_incomplete_experiment_starts_with_the_cause(make_results: Maker) -> None:
    cells, record = CASES["settings"]
    text = build(make_results(cells, **record)).read_text(encoding="utf-8")
    assert text.splitlines()[2] == r"> **INCOMPLETE**: cell x: server 3 went away \| and \<more\>"
    whole = build(make_results(LAYER, name="whole", warning="all answers are alike")).read_text(encoding="utf-8")
    assert "INCOMPLETE" not in whole
    assert whole.splitlines()[2] == "> **WARNING**: all answers are alike"


def test_a_killed_run_is_reported_up_to_its_last_whole_line(make_results: Maker) -> None:
    folder = make_results([Cell()], complete=False, failure="")
    path = folder / "samples.csv"
    path.write_bytes(path.read_bytes()[:-30])
    text = build(folder).read_text(encoding="utf-8")
    assert (
        "> **INCOMPLETE**: the run recorded no cause\n>\n> **NOTE**: the last line of samples.csv is incomplete" in text
    )
    assert "| Data on 49 to 50 runs " in text


def test_a_run_that_measured_nothing(make_results: Maker) -> None:
    folder = make_results([Cell()], runs=0, complete=False, failure="it never began")
    text = build(folder).read_text(encoding="utf-8")
    assert NOTHING in text
    assert not tables_of(text)
    assert "comparison.svg" not in text
    assert len((folder / "summary.csv").read_text().splitlines()) == 1
    assert not render_table(summary_of(samples.read(folder), 0)).rows


def test_a_cell_without_its_local_model_has_no_ratio(make_results: Maker) -> None:
    folder = make_results([Cell()])
    path = folder / "samples.csv"
    path.write_text("".join(row for row in path.read_text().splitlines(True) if not row.startswith("none/whole")))
    (layer, *_) = tables_of(build(folder).read_text(encoding="utf-8"))
    assert layer[0] == ["Data on 50 runs", "gRPC"]
    assert layer[3] == ["x / Local", ABSENT]


def test_only_the_local_model(make_results: Maker) -> None:
    (first, *_) = tables_of(build(make_results([local_of(Cell())])).read_text(encoding="utf-8"))
    assert first[0] == ["Data on 50 runs", "Local"]


def test_the_summary_is_read_back_as_it_was(make_results: Maker) -> None:
    folder = build(make_results(LAYER)).parent
    written = pd.read_csv(folder / "summary.csv", keep_default_na=True)
    derived = summary_of(samples.read(folder), 0)
    columns = ["n", "mean", "std", "ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none", "published_ratio"]
    pd.testing.assert_frame_equal(written[columns], derived[columns], check_dtype=False, rtol=1e-8)
