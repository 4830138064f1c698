"""The ladder: the bytes of a request, the pieces of its time, a ladder over real processes, and refusals."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from cluster.partition import Partition
from experiments.ladder import __main__ as ladder
from experiments.ladder.rungs import trips
from experiments.reports import report
from experiments.reports.ladder import PIECES, ladders
from experiments.spec.experiment import Cell, local_of
from experiments.store import ladder as stored
from experiments.store import samples
from experiments.store.samples import Sample, Writer
from experiments.store.statistics import chain_of, none_of
from partitioning.plan import Edge, Plan, Stage
from transports.errors import UsageError

CHAIN = Partition(
    "submodel",
    Plan(
        "submodel",
        (
            Stage("a", ("x",), ("u",), ("one",)),
            Stage("b", ("u",), ("v", "w"), ("two",)),
            Stage("c", ("v", "w"), ("y",), ("three",)),
        ),
        {
            "x": Edge("x", (None, 4), "float32", None, ("a",)),
            "u": Edge("u", (None, 4), "float32", "a", ("b",)),
            "v": Edge("v", (None, 4), "float32", "b", ("c",)),
            "w": Edge("w", (None, 4), "float32", "b", ("c",)),
            "y": Edge("y", (None, 4), "float32", "c", ()),
        },
        ("x",),
        ("y",),
    ),
    {"a": 0, "b": 0, "c": 1},
    ("eager",),
)
SIZES = {"x": 1000, "u": 500, "v": 30, "w": 4, "y": 8}


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        ("nested", [(1000, 8), (34, 8)]),
        ("hub", [(1000, 34), (34, 8)]),
        ("forward", [(1000, 0), (34, 0), (8, 0)]),
    ],
)
def test_bytes_of_messages_and_answers(flow: str, expected: list[tuple[int, int]]) -> None:
    """`u` stays on server 0; `v` and `w` cross to server 1 in one message."""
    assert trips(CHAIN, flow, SIZES) == expected


def steps_of(cell: Cell, seconds: dict[str, float], rounds: int) -> pd.DataFrame:
    rows = [(cell.name, rung, number, value) for rung, value in seconds.items() for number in range(rounds)]
    return pd.DataFrame(rows, columns=list(stored.COLUMNS))


def test_pieces_by_hand(tmp_path: Path) -> None:
    """Rounds that lack a step are left out: here the last round, of an interrupted run."""
    cell = Cell("grpc", "submodel")
    with Writer(tmp_path) as writer:
        for one, seconds in ((local_of(cell), 10.0), (none_of(cell), 13.0), (chain_of(cell), 14.0), (cell, 20.0)):
            for number in range(3):
                wrong = 99.0 if number == 2 else 0.0
                writer.append(Sample(one, number, seconds + wrong, number, round=number))
    measured = samples.read(tmp_path)
    empty = {"empty": 5.0, "empty none": 0.75, "empty chain": 1.0}
    steps = steps_of(cell, {"row": 11.5, "sockets": 0.5, "library": 2.0, "transport": 3.0} | empty, 2)
    (found,) = ladders(measured, steps)
    assert found.cell == cell
    assert found.pieces == pytest.approx(
        {
            "local model": 10,
            "cut": 1.5,
            "nodes": 1.5,
            "sockets": 0.5,
            "library": 1.5,
            "transport": 1,
            "chain": 1.25,
            "processes": 1.5,
            "not explained": 1.25,
        }
    )
    assert found.seconds == pytest.approx(20)
    assert found.beside_library == pytest.approx(7 / 2)
    (without,) = ladders(measured, steps[steps["rung"] != "library"])
    assert "library" not in without.pieces
    assert without.pieces["transport"] == pytest.approx(2.5)
    assert without.beside_library == pytest.approx(7 / 0.5)
    (older,) = ladders(measured, steps[~steps["rung"].isin(empty)])
    assert not {"chain", "processes"} & older.pieces.keys()
    assert older.pieces["not explained"] == pytest.approx(4)
    assert ladders(measured, steps.iloc[:0]) == []


def test_a_real_ladder(model: Path, tmp_path: Path) -> None:
    flags = [
        "--model",
        str(model),
        "--mode",
        "submodel",
        "--servers",
        "2",
        "--engine",
        "frozen",
        "--transport",
        "rpyc-tuned",
    ]
    assert ladder.main([*flags, "--flow", "nested,forward", "--runs", "10", "--out", str(tmp_path / "out")]) == 0
    measured, steps = samples.read(tmp_path / "out"), stored.read(tmp_path / "out")
    assert {*steps["rung"]} == {*stored.RUNGS}
    assert {*steps["round"]} == {*measured["round"]} == {0, 1}
    assert (steps.groupby(["cell", "rung", "round"]).size() == 3).all()
    assert measured["cell"].nunique() == 2 + 2 + 1 + 1
    found = ladders(measured, steps)
    assert [one.cell.flow for one in found] == ["nested", "forward"]
    for one in found:
        assert list(one.pieces) == list(PIECES)
        assert one.seconds == pytest.approx(measured[measured["cell"] == one.cell.name]["seconds"].mean())
    text = (tmp_path / "out" / "report.md").read_text()
    for name in PIECES:
        assert f"- **{name}**: {PIECES[name]}." in text
    assert "<svg" in (tmp_path / "out" / "ladder.svg").read_text()
    assert report.build(tmp_path / "out").read_text() == text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--concurrency", "1,2"], "--concurrency above 1"),
        (["--order", "blocked"], "--order blocked"),
        (["--kill", "node-1@3"], "--kill"),
        (["--mode", "whole", "--transport", "tcp"], "--mode whole"),
        (["--transport", "none"], "the transport none alone"),
        (["--transport", "grpc,ray", "--mode", "submodel", "--engine", "frozen"], "a runtime"),
        (["--engine", "tfserving", "--option", "tfserving.binary=none"], "an engine that calls model servers"),
    ],
)
def test_what_has_no_ladder_is_refused(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main(words) == 2
    assert capsys.readouterr().err.startswith(f"error: a ladder cannot have {message}")


def test_beside_shows_the_tables_of_other_folders(capsys: pytest.CaptureFixture[str]) -> None:
    assert ladder.main(["--beside", "nowhere"]) == 2
    assert "--beside nowhere: cannot read" in capsys.readouterr().err


def test_an_unknown_rung_is_refused(tmp_path: Path) -> None:
    with stored.writer(tmp_path) as writer:
        writer.append(stored.Step(Cell(), "stairs", 0, 1.0))
    with pytest.raises(UsageError, match="no rung 'stairs'; valid: row, sockets, library, transport"):
        stored.read(tmp_path)
