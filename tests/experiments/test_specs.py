"""Specification files: blocks, flags beside a file, and the files of the package."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.flows import FLOWS
from experiments.spec.experiment import Cell, Experiment
from experiments.spec.flags import parse, parse_runs
from tests.experiments.common import SPECS
from transports.errors import UsageError


def spec(folder: Path, text: str, *argv: str) -> Experiment:
    """The experiment of a file with this text, and of flags beside it."""
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return parse(["--spec", str(path), *argv])[0]


BLOCKS = """
title = "two blocks, with a comma"
runs = 7
timeout = 5
mode = ["layer", "submodel"]
local-calls = "off"
[[matrix]]
transport = "grpc"
codec = ["raw", "tensorproto"]
[[matrix]]
transport = "none,rpyc"
mode = "layer"
[option]
grpc.max_message = 1000
"rpyc.max_message" = 2000
"""


def test_blocks_inherit_the_settings_above_them(tmp_path: Path) -> None:
    made = spec(tmp_path, BLOCKS)
    assert made.title == "two blocks, with a comma"
    assert (made.runs, made.timeout) == (7, 5.0)
    assert made.option == {"grpc.max_message": "1000", "rpyc.max_message": "2000"}
    assert {cell.local_calls for cell in made.cells} == {"off"}
    assert [(cell.transport, cell.mode, cell.codec) for cell in made.cells] == [
        ("grpc", "layer", "raw"),
        ("grpc", "layer", "tensorproto"),
        ("grpc", "submodel", "raw"),
        ("grpc", "submodel", "tensorproto"),
        ("none", "layer", "raw"),
        ("rpyc", "layer", "raw"),
    ]


def test_flags_override_the_file_in_every_block(tmp_path: Path) -> None:
    made = spec(tmp_path, BLOCKS, "--runs", "9", "--mode", "submodel", "--local-calls", "on")
    assert made.runs == 9
    assert {(cell.mode, cell.local_calls) for cell in made.cells} == {("submodel", "on")}
    assert {cell.transport for cell in made.cells} == {"grpc", "none", "rpyc"}


def test_options_of_a_transport_that_a_flag_replaces_are_dropped(tmp_path: Path) -> None:
    made = spec(tmp_path, BLOCKS, "--transport", "grpc", "--option", "grpc.max_message=3000")
    assert made.option == {"grpc.max_message": "3000"}


def test_a_cut_of_the_file_is_dropped_if_a_flag_replaces_the_mode(tmp_path: Path) -> None:
    text = "mode = 'submodel'\ncut = 'narrow'"
    assert spec(tmp_path, text, "--mode", "layer").cells == (Cell(),)
    assert [cell.cut for cell in spec(tmp_path, text, "--mode", "layer,submodel").cells] == ["equal", "narrow"]
    for words in (["--mode", "layer", "--cut", "narrow"], ["--cut", "balanced"]):
        with pytest.raises(UsageError, match="no cell is of mode submodel"):
            spec(tmp_path, text.replace("submodel", "layer"), *words)


def test_the_folder_is_named_after_the_file(tmp_path: Path) -> None:
    (tmp_path / "seed-layer.toml").write_text("", encoding="utf-8")
    experiment, folder = parse(["--spec", str(tmp_path / "seed-layer.toml")])
    assert experiment == Experiment((Cell(),))
    assert folder.name.endswith("-seed-layer")


def test_several_files_run_one_after_the_other(tmp_path: Path) -> None:
    for name in ("first", "second", "third"):
        (tmp_path / f"{name}.toml").write_text(f"title = '{name}'", encoding="utf-8")
    files = ",".join(str(tmp_path / f"{name}.toml") for name in ("first", "second", "third"))
    flags = ["--spec", files, "--runs", "9", "--option", "grpc.send=stream", "--option", "grpc.chunk=2048"]
    runs, seen = parse_runs(flags), []
    folders = [folder for _, folder in runs.experiments]
    assert [folder.name.partition("-")[2] for folder in folders] == ["first", "second", "third"]
    while True:
        experiment, folder = runs.experiments[0]
        assert (experiment.runs, experiment.option) == (9, {"grpc.send": "stream", "grpc.chunk": "2048"})
        assert runs.beside == tuple(folders[: len(seen)])
        assert folder == folders[len(seen)]
        seen.append(experiment.title)
        if not runs.rest:
            break
        runs = parse_runs(runs.rest)
    assert seen == ["first", "second", "third"]


def test_an_empty_list_of_blocks_is_one_block(tmp_path: Path) -> None:
    assert spec(tmp_path, "matrix = []").cells == (Cell(),)


@pytest.mark.parametrize("path", SPECS, ids=[path.stem for path in SPECS])
def test_the_files_of_the_package_can_be_used(path: Path) -> None:
    assert parse(["--spec", str(path)])[0].cells


@pytest.mark.parametrize("name", ["wire", "flows"])
def test_files_whose_results_are_compared_name_one_cut(name: str) -> None:
    """Costs are measured for each engine and run, so searched cuts differ, and their bytes too."""
    cuts = {
        cell.cut
        for path in SPECS
        if path.stem in (name, "tuned-submodel")
        for cell in parse(["--spec", str(path)])[0].cells
    }
    assert len(cuts) == 1
    assert "+" in cuts.pop()


def test_every_flow_is_compared_over_every_plain_transport() -> None:
    (path,) = (path for path in SPECS if path.stem == "flows")
    compared = parse(["--spec", str(path)])[0].cells
    assert {cell.flow for cell in compared} == set(FLOWS)
    assert len({(cell.transport, cell.flow) for cell in compared}) == len(compared) == 3 * len(FLOWS)
    assert len({replace(cell, transport="none", flow="nested") for cell in compared}) == 1
