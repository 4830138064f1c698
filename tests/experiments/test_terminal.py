"""The summary on terminals of every width, and in a pipe."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from rich.console import Console

from experiments.reports.engine_titles import titles_of
from experiments.reports.markdown import ABSENT
from experiments.reports.report import summary_of
from experiments.reports.terminal import FIGURES, SummaryTable, render_table
from experiments.spec.experiment import Cell, local_of
from experiments.store import environment, samples
from experiments.store.samples import cell_of
from tests.experiments.common import REFERENCE
from tests.running import ROOT

if TYPE_CHECKING:
    from tests.experiments.conftest import Maker

COMPARED = sorted(path.parent for path in REFERENCE.glob("*/plan-whole.json"))
ALWAYS = ("mean", "x Local", "95 %")
PIPE = """
import sys
from pathlib import Path
import pandas as pd
from rich.console import Console
from experiments.reports.terminal import render_table
for folder in sys.argv[1:]:
    Console().print(render_table(pd.read_csv(Path(folder) / "summary.csv")))
    print("end of table")
"""


def printed(table: SummaryTable, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(table)
    return text.getvalue()


def assert_whole(text: str, table: SummaryTable, width: int) -> None:
    """Each cell has one line with its transport and the figures that matter; no line is too long or cut."""
    lines = [line.rstrip() for line in text.splitlines()]
    assert max(map(len, lines)) <= width
    assert "…" not in text
    (rule,) = (place for place, line in enumerate(lines) if line.strip() and not line.strip("─ "))
    rows = lines[rule + 1 : rule + 1 + len(table.rows)]
    for line, row in zip(rows, table.rows, strict=True):
        cell = cell_of(row)
        words = line.split()
        assert {"local" if cell == local_of(cell) else cell.transport, *(FIGURES[name](row) for name in ALWAYS)} <= {
            *words
        }
    heads = " ".join(lines[rule - 1].split())
    assert all(name in heads for name in ("transport", *ALWAYS))


@pytest.mark.parametrize("width", [60, 80, 200])
@pytest.mark.parametrize("folder", COMPARED, ids=lambda folder: folder.name)
def test_no_word_is_broken_and_the_figures_that_matter_stay(folder: Path, width: int) -> None:
    table = render_table(pd.read_csv(folder / "summary.csv"), titles_of(environment.read(folder)))
    text = printed(table, width)
    assert_whole(text, table, width)
    if width == 200:
        assert "not shown" not in text
        assert "std" in text
        assert ("x None" in text) is any(FIGURES["x None"](row) != ABSENT for row in table.rows)


def test_the_same_holds_in_a_pipe() -> None:
    command = [sys.executable, "-c", PIPE, *map(str, COMPARED)]
    free = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    done = subprocess.run(
        command, cwd=ROOT, env=free, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    texts = done.stdout.split("end of table\n")[:-1]
    assert len(texts) == len(COMPARED)
    for folder, text in zip(COMPARED, texts, strict=True):
        assert_whole(text, render_table(pd.read_csv(folder / "summary.csv")), 80)


def test_settings_and_figures_that_do_not_fit_stand_below(make_results: Maker) -> None:
    cut = "+".join(f"expanded_conv_{stage}_expand" for stage in (4, 7, 11, 13))
    flows = [
        Cell("rpyc-tuned", "submodel", flow, engine, cut=cut)
        for flow in ("hub", "forward")
        for engine in ("eager", "frozen")
    ]
    table = render_table(summary_of(samples.read(make_results([*flows, Cell("rpyc-tuned", placement="striped")])), 0))
    wide, narrow = printed(table, 200), printed(table, 50)
    assert "not shown here, but in cells.md: std" in narrow
    assert "std" in wide
    assert "not shown" not in wide
    assert re.search(r"\d: RPyC tuned, submodel, hub, frozen engine, contiguous, cut 1 ", " ".join(narrow.split()))
    for text in (wide, narrow):
        assert "cut 1: before expanded_conv_4_expand" in text
        assert ", expanded_conv_13_expand" in " ".join(text.split())
        assert "batch 1" in text.splitlines()[0]


def test_cells_that_differ_in_one_setting_have_a_column_for_it(make_results: Maker) -> None:
    layer = [Cell(name) for name in ("none", "rpyc", "rpyc-tuned", "grpc")]
    submodel = [Cell(name, "submodel") for name in ("none", "grpc")]
    text = printed(
        render_table(summary_of(samples.read(make_results([*layer, *submodel, Cell(codec="tensorproto")])), 0)), 80
    )
    assert "rpyc-tuned" in text
    assert "tensorproto" in text
    assert "…" not in text


def test_a_cell_of_few_blocks_has_a_dash_for_its_interval(make_results: Maker) -> None:
    table = render_table(summary_of(samples.read(make_results([Cell()], runs=12)), 0))
    assert [FIGURES["95 %"](row) for row in table.rows] == [ABSENT, ABSENT]


def test_the_table_names_the_model_server(make_results: Maker) -> None:
    folder = make_results([Cell(engine="tfserving", mode="submodel")])
    table = render_table(summary_of(samples.read(folder), 0), {"tfserving": "TFS-compatible"})
    assert "TFS-compatible" in printed(table, 100)


def test_overlapping_requests_show_their_throughput(make_results: Maker) -> None:
    table = render_table(summary_of(samples.read(make_results([Cell(concurrency=4)])), 0))
    assert "1/s x Local" in printed(table, 120)
