"""The command `splitbench compare`: what it refuses, what it prints and writes, and its exit status."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from experiments.cli import main
from experiments.compare import runs
from experiments.compare.compare import SAME, SLOWER
from experiments.compare.surroundings import differences
from experiments.compare.tables import Outcome
from experiments.spec.experiment import local_of
from tests.experiments.common import REFERENCE, tables_of
from tests.experiments.comparing import GRPC, LEVELS, LOCAL, RPYC, UNIX, Noisy, outcome
from tests.experiments.conftest import ENVIRONMENT, Maker


@pytest.fixture
def write(make_results: Maker) -> Noisy:
    return Noisy(make_results)


def printed(found: Outcome, width: int) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(found)
    return text.getvalue()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["compare", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


OTHER: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], str]] = {
    "processor": (
        {"processor": ENVIRONMENT["processor"] | {"model": "Another"}},
        {},
        "processor, model: Processor | of a sort in A, Another in B",
    ),
    "affinity": (
        {"processor": ENVIRONMENT["processor"] | {"affinity": 1}},
        {},
        "processor, affinity: 2 in A, 1 in B",
    ),
    "version": (
        {"versions": ENVIRONMENT["versions"] | {"tensorflow": "2.22.0"}},
        {},
        "version of tensorflow: 2.21.0 in A, 2.22.0 in B",
    ),
    "threads": ({"threads": {"intra_op": 1, "inter_op": 2}}, {}, "threads of TensorFlow, intra_op: 2 in A, 1 in B"),
    "variable": ({"variables": {}}, {}, "variable TF_NUM_INTRAOP_THREADS: 2 in A, not set in B"),
    "cards": ({"cards": {"0": "A card"}}, {}, "cards: none in A, 0 A card in B"),
    "model": ({}, {"model": "ResNet50"}, "model: MobileNetV3Large in A, ResNet50 in B"),
    "weights": ({}, {"weights": "imagenet"}, "weights: random in A, imagenet in B"),
    "input": ({}, {"input": "mine.npz"}, "input: astronaut.jpg (bundled) in A, mine.npz in B"),
    "malloc": ({}, {"malloc": "default"}, "malloc: keep in A, default in B"),
    "device": ({}, {"device": "gpu"}, "device: cpu in A, gpu in B"),
    "option": ({}, {"option": {"grpc.send": "stream"}}, "options: none in A, grpc.send stream in B"),
    "TLS": ({}, {"tls_cert": "node.pem"}, "TLS: none in A, mutual in B"),
    "hosts": ({}, {"hosts": "edge:1,cloud:1"}, "hosts: none in A, edge:1,cloud:1 in B"),
}
"""What differs -> entries of the record, settings of the experiment, and the text that names it."""


@pytest.mark.parametrize("what", OTHER)
def test_another_environment_is_refused_or_compared_anyway(
    what: str, write: Noisy, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    record, settings, text = OTHER[what]
    a, b = str(write("a", 1)), str(write("b", 2, settings=settings, **record))
    err = refused(capsys, a, b)
    assert err.startswith(f"error: {a} and {b} may not be compared: ")
    assert text in err
    assert err.endswith("; --anyway compares them nevertheless\n")
    assert main(["compare", a, b, "--anyway"]) == 0
    out = capsys.readouterr().out
    assert out.index(f"differs, compared anyway: {text}"[:60]) < out.index("4 cells")


@pytest.mark.parametrize(
    ("record", "settings"),
    [
        ({"load_at_start": [9, 9, 9]}, {}),
        ({"started": "2027-01-01T00:00:00+00:00"}, {}),
        ({"commit": None}, {}),
        ({"memory_bytes": 1}, {}),
        ({"system": {"system": "Linux", "kernel": "7.0"}}, {}),
        ({"versions": ENVIRONMENT["versions"] | {"rpyc": "6.0.2", "pandas": "3.0"}}, {}),
        ({"control_group": {"cores": 2}}, {}),
        ({}, {"seed": 5, "runs": 7, "insecure": "on"}),
    ],
    ids=str,
)
def test_what_varies_between_equal_runs_is_only_mentioned(
    record: Mapping[str, Any], settings: Mapping[str, Any], write: Noisy
) -> None:
    found = outcome(write("a", 1), write("b", 2, settings=settings, **record))
    assert found.mentioned
    assert not found.notes
    assert f"no obstacle: {found.mentioned[0]}" in " ".join(found.remarks())


def test_the_control_group_and_the_hosts_of_both_runs_must_be_alike(write: Noisy) -> None:
    run = runs.read(str(write("a", 1)))
    one: dict[str, Any] = {"control_group": {"cores": 2.0}, "machines": {"hosts": {"edge": {"processor": "X"}}}}
    other: dict[str, Any] = {"control_group": {"cores": None}, "machines": {"hosts": {"edge": {"processor": "Y"}}}}
    found = differences(tuple({**run.record, **more} for more in (one, other)), (run.experiment, run.experiment))
    assert [(str(each), each.forbids) for each in found] == [
        ("control group, cores: 2.0 in A, none in B", True),
        ("host edge, processor: X in A, Y in B", True),
    ]


def test_folders_without_a_common_cell_are_refused(write: Noisy, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = write("a", 1, {LOCAL: 0.1, GRPC: 0.2}), write("b", 2, {LOCAL: 0.1, RPYC: 0.2, UNIX: 0.2})
    err = refused(capsys, str(a), str(b), "--anyway")
    assert "have no cell in common, besides local models: 1 only in the first, 2 only in the second" in err


def test_runs_with_kills_are_refused(write: Noisy, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(write("a", 1)), str(write("b", 2, kill="node-1@3"))
    err = refused(capsys, a, b, "--anyway")
    assert err.startswith(
        f"error: {b}: nodes were killed in this run (--kill node-1@3), so its times include recoveries"
    )


def test_other_folders_are_refused(write: Noisy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = str(write("a", 1))
    assert "no folder" in refused(capsys, a, str(tmp_path / "nowhere"))
    assert "give a folder that an experiment wrote" in refused(capsys, str(tmp_path), a)
    assert "holds results of threads; give folders" in refused(capsys, a, str(REFERENCE / "threads"))


def test_an_incomplete_run_is_compared_with_a_warning(write: Noisy) -> None:
    found = outcome(write("a", 1), write("b", 2, complete=False, failure="it was interrupted"))
    assert found.notes == ("warning: B is INCOMPLETE: it was interrupted",)


def test_cells_in_one_folder_alone_are_listed(write: Noisy) -> None:
    a, b = dict(LEVELS), {cell: level for cell, level in LEVELS.items() if cell != RPYC}
    batch = replace(GRPC, batch=8)
    found = outcome(write("a", 1, a), write("b", 2, b | {local_of(batch): 0.5, batch: 1.0}))
    assert found.comparison.only == ((RPYC,), (batch,))
    text = " ".join(found.remarks())
    assert "Only in A, not compared: RPyC" in text
    assert "Only in B, not compared: gRPC, batch 8." in text


@pytest.mark.parametrize("width", [50, 80, 200])
def test_it_fits_a_terminal_and_breaks_no_word(width: int, write: Noisy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(write("a", 1).parent)
    write("b", 2, LEVELS | {GRPC: 0.5})
    text = printed(outcome(Path("a"), Path("b")), width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert {"slower", "difference", "beyond", "noise", "grpc"} <= {*text.split()}
    assert "B / A" in text
    assert ("  no difference beyond noise" in text) == (width > 50)
    assert ("< 0.0001" in text) == (width == 200)
    assert ("not shown here, but in --out and --csv" in " ".join(text.split())) == (width < 200)


def test_the_files_have_every_figure(write: Noisy, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = str(write("a", 1)), str(write("b", 2, LEVELS | {GRPC: 0.5}))
    page, figures = tmp_path / "change.md", tmp_path / "change.csv"
    assert main(["compare", a, b, "--out", str(page), "--csv", str(figures)]) == 0
    (rows,) = tables_of(page.read_text())
    assert rows[0][0] == "Cell"
    assert rows[0][8:] == ["verdict", "rounds A", "rounds B"]
    assert rows[1][0] == "gRPC"
    assert rows[1][7:] == ["< 0.0001", "slower", "12", "12"]
    assert "1 of 4 cells differs: gRPC is " in page.read_text()
    frame = pd.read_csv(figures)
    assert list(frame["verdict"]) == [SLOWER, SAME, SAME, SAME]
    assert list(frame["change"]) == pytest.approx(list(frame["x_local_b"] / frame["x_local_a"]))
    again = page.read_bytes(), figures.read_bytes()
    assert main(["compare", a, b, "--out", str(page), "--csv", str(figures)]) == 0
    assert again == (page.read_bytes(), figures.read_bytes())
    assert main(["compare", a, b, "--out", str(tmp_path / "no" / "page.md")]) == 1
    assert "cannot write" in capsys.readouterr().err


@pytest.mark.parametrize(("percent", "status"), [(0, 1), (10, 1), (30, 0)])
def test_a_slower_cell_fails_only_where_it_is_asked_for(
    percent: int, status: int, write: Noisy, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = str(write("a", 1)), str(write("b", 2, LEVELS | {GRPC: 1.2 * LEVELS[GRPC], UNIX: LEVELS[UNIX] / 2}))
    assert main(["compare", a, b]) == 0
    capsys.readouterr()
    assert main(["compare", a, b, "--fail-if-slower", str(percent)]) == status
    named = f"slower by more than {percent} %: {GRPC.name}\n"
    assert capsys.readouterr().err == (named if status else "")
    assert main(["compare", b, a, "--fail-if-slower", f"{percent}%"]) == 1  # unix is slower there


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a"], "required: B"),
        ([], "required: A, B"),
        (["a", "b", "c"], "no flag 'c'"),
        (["a", "b", "--fail-if-slower=-1"], "--fail-if-slower: -1 is too small; valid: 0 to 1000000 percent"),
    ],
    ids=str,
)
def test_words_that_cannot_be_used(words: Sequence[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert text in refused(capsys, *words)
