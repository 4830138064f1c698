"""The report: golden files, the same bytes twice, and what it says of an experiment that went wrong.

After a wanted change, `SPLITBENCH_REGENERATE=1 pytest tests/experiments/test_report.py` writes the golden files
anew; read their difference before it is committed.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from experiments.reports import sections
from experiments.reports.markdown import ABSENT, count, line, number, table
from experiments.reports.published import figures_for
from experiments.reports.report import build, main, render_table, summary_of
from experiments.spec.experiment import Cell, Experiment, local_of
from experiments.spec.schedule import VARIANTS
from experiments.store import samples

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

GOLDEN = Path(__file__).parent / "golden"
LAYER = [Cell(name) for name in ("none", "rpyc", "rpyc-tuned", "grpc")]
SUBMODEL = [Cell(name, "submodel") for name in ("none", "grpc")]

CASES = {
    "document": ([*LAYER, *SUBMODEL], {}),
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
@pytest.mark.parametrize("file", ["report.md", "summary.csv"])
def test_golden(make_results: Maker, name: str, file: str) -> None:
    cells, record = CASES[name]
    folder = build(make_results(cells, **record)).parent
    golden = GOLDEN / f"{name}-{file}"
    if os.environ.get("SPLITBENCH_REGENERATE"):
        golden.write_bytes((folder / file).read_bytes())
    assert (folder / file).read_text(encoding="utf-8") == golden.read_text(encoding="utf-8")


def test_twice_gives_the_same_bytes(make_results: Maker) -> None:
    folder = make_results(LAYER)
    names = ("summary.csv", "report.md", "comparison.svg")
    build(folder)
    first = {name: (folder / name).read_bytes() for name in names}
    command = [sys.executable, "-m", "experiments.report", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(folder / "report.md")
    assert {name: (folder / name).read_bytes() for name in names} == first
    assert sorted(path.name for path in folder.iterdir()) == sorted([*names, "samples.csv", "environment.json"])


def tables_of(text: str) -> list[list[list[str]]]:
    """The tables that a Markdown parser sees, as rows of cells."""
    found: list[list[list[str]]] = []
    inside = False
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        inside = token.type == "table_open" or (inside and token.type != "table_close")
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and inside:
            found[-1][-1].append("".join(child.content for child in token.children or ()))
    return found


@pytest.mark.parametrize("name", CASES)
def test_a_parser_sees_the_tables(make_results: Maker, name: str) -> None:
    cells, record = CASES[name]
    text = build(make_results(cells, **record)).read_text(encoding="utf-8")
    made = tables_of(text)
    assert len(made) == text.count("\n## ") - 1  # every section but "How to read this" has one
    assert all(len(row) == len(rows[0]) for rows in made for row in rows)
    for block in re.findall(r"(?:^\|.*\n)+", text, flags=re.MULTILINE):
        assert len({len(row) for row in block.splitlines()}) == 1  # aligned as text, too


def test_the_document_own_shape(make_results: Maker) -> None:
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
def test_published_figures_are_beside_what_they_may_be_compared_with(
    cell: Cell, group: Cell, mean: float | None
) -> None:
    found = figures_for(cell, group)
    assert (found.mean if found else None) == mean


def _with_wire(folder: Path, wire: dict[str, int]) -> Path:
    """The same samples, with what crossed over some transports."""
    path = folder / "samples.csv"
    frame = pd.read_csv(path)
    frame.assign(wire_bytes=frame["transport"].map(wire).astype("Int64")).to_csv(path, index=False)
    return folder


def test_what_crossed_is_shown_where_it_was_measured(make_results: Maker) -> None:
    payload = 41 * 150_528
    folder = _with_wire(make_results(LAYER), {"none": 0, "grpc": 2 * payload, "rpyc": payload})
    text = build(folder).read_text(encoding="utf-8")
    layer, *_ = tables_of(text)
    rows = {row[0]: row[1:] for row in layer}
    assert rows["Wire (MB)"] == ["0", "0", "6.1716", ABSENT, "12.343"]
    assert rows["Wire / payload"] == [ABSENT, ABSENT, "1", ABSENT, "2.0000"]
    assert "**Wire** is the median" in text


def test_where_nothing_was_seen_to_cross_the_report_is_as_before(make_results: Maker) -> None:
    plain = build(make_results(LAYER)).read_text(encoding="utf-8")
    none = build(_with_wire(make_results(LAYER, name="none"), {"none": 0})).read_text(encoding="utf-8")
    assert "Wire" not in plain
    assert none == plain


def words_of(experiment: Experiment) -> tuple[str, dict[str, str]]:
    """What a report says of it above the tables, and its settings in the last one."""
    (first,) = sections.overview(experiment)
    (rows,) = tables_of("\n".join(sections.environment({"experiment": {}}, experiment)))
    return first, dict(rows)


def test_the_overview_tells_the_order_and_the_clients_as_they_were() -> None:
    plain, _ = words_of(Experiment((Cell(),)))
    assert "after 5 warm-up requests, one client without concurrent requests, order shuffled. " in plain
    assert plain.endswith("begin of each block that are not counted: 1.")
    crowded, _ = words_of(Experiment((Cell(concurrency=4),), kill="node-1@20").with_locals())
    assert "one client with 1 or 4 requests under way at a time, order blocked. " in crowded
    assert crowded.endswith("begin of each block that are not counted: 1 or 4.")
    twins, _ = words_of(Experiment((Cell(),), replicas=2))
    assert twins.endswith("begin of each block that are not counted: 2.")


@pytest.mark.parametrize(("asked", "made"), [(0, VARIANTS), (1, VARIANTS), (VARIANTS + 1, VARIANTS + 1)])
def test_the_overview_tells_the_warm_up_requests_that_were_made(asked: int, made: int) -> None:
    """Every variant of the input is checked once, whatever was asked for."""
    assert f"after {made} warm-up requests" in words_of(Experiment((Cell(),), warmup=asked))[0]


def test_the_environment_tells_settings_that_are_not_the_default() -> None:
    _, plain = words_of(Experiment((Cell(),)))
    assert plain["TLS"] == "none"
    told = {"Pinned to cores": "on", "Lease (s)": "1.0", "Kill": "node-1@20", "Host": "::1", "Largest message (B)": "9"}
    assert not set(told) & set(plain)
    _, given = words_of(Experiment((Cell(),), pin="on", lease=1.0, kill="node-1@20", host="::1", max_message=9))
    assert given == plain | told


@pytest.mark.parametrize("setting", [{"tls_cert": "mine.pem"}, {"option": {"grpc.tls_cert": "mine.pem"}}])
def test_tls_is_told_of_the_transports_that_have_it(setting: dict[str, Any]) -> None:
    _, words = words_of(Experiment((Cell("none"), Cell("grpc")), **setting))
    assert words["TLS"] == "mutual (grpc)"


def test_an_incomplete_experiment_says_so_first(make_results: Maker) -> None:
    cells, record = CASES["settings"]
    text = build(make_results(cells, **record)).read_text(encoding="utf-8")
    assert text.splitlines()[2] == r"> **INCOMPLETE**: cell x: server 3 went away \| and \<more\>"
    assert "INCOMPLETE" not in build(make_results(LAYER, name="whole")).read_text(encoding="utf-8")


def test_a_killed_run_is_reported_up_to_its_last_whole_line(make_results: Maker) -> None:
    folder = make_results([Cell()], complete=False, failure="")
    path = folder / "samples.csv"
    path.write_bytes(path.read_bytes()[:-30])
    text = build(folder).read_text(encoding="utf-8")
    assert (
        "> **INCOMPLETE**: the run did not say why\n>\n> **NOTE**: the last line of samples.csv is incomplete" in text
    )
    assert "| Data on 49 to 50 runs " in text


def test_a_run_that_measured_nothing(make_results: Maker) -> None:
    folder = make_results([Cell()], runs=0, complete=False, failure="it never began")
    text = build(folder).read_text(encoding="utf-8")
    assert "No request was timed." in text
    assert "comparison.svg" not in text
    assert len((folder / "summary.csv").read_text().splitlines()) == 1
    assert render_table(summary_of(samples.read(folder), 0)).row_count == 0


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


def test_without_matplotlib_the_report_says_how_to_get_it(make_results: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    folder = make_results(LAYER)
    text = build(folder).read_text(encoding="utf-8")
    assert "No chart: it needs matplotlib" in text
    assert "pip install" in text
    assert not (folder / "comparison.svg").exists()
    assert (folder / "summary.csv").exists()


@pytest.mark.filterwarnings("error:constrained_layout not applied")
def test_named_cuts_leave_the_chart_its_room(make_results: Maker) -> None:
    cut = "+".join(f"expanded_conv_{number}_project_bn" for number in range(4))
    folder = make_results([Cell("grpc", "submodel", cut=cut)])
    build(folder)
    assert ">grpc/submodel/nested/eager/raw/b1/s5/cut=named<" in (folder / "comparison.svg").read_text()


def test_the_chart_is_an_svg_with_every_cell(make_results: Maker) -> None:
    folder = build(make_results(LAYER)).parent
    text = (folder / "comparison.svg").read_text()
    assert text.startswith("<?xml")
    assert "<svg" in text
    for name in pd.read_csv(folder / "summary.csv")["cell"]:
        assert name in text
    assert "published" in text


def test_the_chart_has_room_beside_long_names(make_results: Maker) -> None:
    """Names of operations fill it: matplotlib then warns, and lets the axes vanish."""
    cut = "+".join(f"expanded_conv_{stage}_expand" for stage in (4, 7, 11, 13))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = build(make_results([Cell(mode="submodel", cut=cut)])).parent
    assert "cut=named" in (folder / "comparison.svg").read_text()


def test_the_summary_is_read_back_as_it_was(make_results: Maker) -> None:
    folder = build(make_results(LAYER)).parent
    written = pd.read_csv(folder / "summary.csv", keep_default_na=True)
    derived = summary_of(samples.read(folder), 0)
    columns = ["n", "mean", "std", "ratio_to_local", "ratio_low", "ratio_high", "ratio_to_none", "published_ratio"]
    pd.testing.assert_frame_equal(written[columns], derived[columns], check_dtype=False, rtol=1e-8)


def test_the_terminal_table_fits_eighty_columns(make_results: Maker) -> None:
    folder = make_results([*LAYER, *SUBMODEL, Cell(codec="tensorproto")])
    text = io.StringIO()
    Console(file=text, width=80).print(render_table(summary_of(samples.read(folder), 0)))
    assert "rpyc-tuned" in text.getvalue()
    assert "tensorproto" in text.getvalue()
    assert "…" not in text.getvalue()


def test_a_cell_of_few_blocks_has_a_dash_for_its_interval(make_results: Maker) -> None:
    folder = make_results([Cell()], runs=12)
    (layer, *_) = tables_of(build(folder).read_text(encoding="utf-8"))
    assert layer[4] == ["95 % interval", ABSENT, ABSENT]
    table = render_table(summary_of(samples.read(folder), 0))
    (shown,) = (list(column.cells) for column in table.columns if column.header == "95 %")
    assert shown == [ABSENT, ABSENT]


def test_the_terminal_table_says_which_model_server_it_was(make_results: Maker) -> None:
    folder = make_results([Cell(engine="tfserving", mode="submodel")])
    text = io.StringIO()
    table = render_table(summary_of(samples.read(folder), 0), {"tfserving": "TFS-compatible"})
    Console(file=text, width=100).print(table)
    assert "TFS-compatible" in text.getvalue()


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
def test_refused_in_one_line(make_results: Maker, capsys: pytest.CaptureFixture[str], kind: str, message: str) -> None:
    assert main(_spoil(make_results([Cell()], runs=1), kind)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [
        (0.548634, 5, "0.54863"),
        (4.5065, 5, "4.5065"),
        (1.42, 5, "1.4200"),
        (12345.678, 5, "12346"),
        (1234567.0, 5, "1234600"),
        (0.000012345678, 5, "0.000012346"),
        (9.99999, 3, "10.0"),
        (-0.5, 2, "-0.50"),
        (0.0, 5, "0"),
        (float("nan"), 5, ABSENT),
        (float("inf"), 5, ABSENT),
    ],
)
def test_number(value: float, digits: int, expected: str) -> None:
    assert number(value, digits) == expected


@given(st.floats(1e-12, 1e12), st.integers(2, 9))
def test_number_keeps_its_digits(value: float, digits: int) -> None:
    text = number(value, digits)
    assert "e" not in text.lower()
    assert float(text) == pytest.approx(value, rel=0.6 * 10 ** (1 - digits))


@pytest.mark.parametrize(
    ("value", "expected"), [(41, "41"), (40.5, "40.5"), (0, "0"), (100, "100"), (1.5e6, "1500000")]
)
def test_count(value: float, expected: str) -> None:
    assert count(value) == expected


@given(st.lists(st.lists(st.text(max_size=12), min_size=2, max_size=2), max_size=4))
def test_no_text_breaks_out_of_its_cell(rows: list[list[str]]) -> None:
    lines = table(["a", "b"], [[line(text) for text in row] for row in rows])
    (found,) = tables_of("\n".join(lines))
    assert len(found) == len(rows) + 1
    assert all(len(row) == 2 for row in found)
