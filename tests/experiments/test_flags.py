"""Flags: the cells and the experiment that a command line describes."""

from __future__ import annotations

import contextlib
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transports
from experiments.spec.experiment import CELL_FIELDS, PHOTOGRAPH, SETTINGS, Cell, Experiment, local_of
from experiments.spec.flags import parse, parser
from tests.experiments.common import EXPERIMENTS
from transports.errors import UsageError


def cells(*argv: str) -> list[Cell]:
    return list(parse(argv)[0].cells)


def test_the_first_example_of_the_documentation() -> None:
    experiment, folder = parse(["--transport", "grpc", "--mode", "layer"])
    assert experiment == Experiment((Cell(),))
    assert folder.parent == Path("results")
    stamp, _, name = folder.name.partition("-")
    assert len(stamp) == len("20260102T030405Z")
    assert name == "grpc-layer"
    assert not folder.exists()


def test_every_field_is_a_flag_with_help_and_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "500")  # argparse breaks lines at hyphens
    text = " ".join(parser().format_help().split())
    for setting in SETTINGS.values():
        assert f"{setting.flag} " in text
        assert (
            f"(default: {setting.default if setting.default not in ('', ()) else 'none'})" in text
            or setting.name == "input"
        )
    assert {item.name for item in (*fields(Cell), *fields(Experiment))} == {*SETTINGS, "cells", "option", "machines"}


def test_help_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        parse(["--help"])
    assert end.value.code == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    assert str(PHOTOGRAPH) not in out


def test_a_comma_makes_a_matrix() -> None:
    made = cells("--transport", "none, grpc", "--mode", "layer,submodel", "--batch", "1,8")
    assert len(made) == 8
    assert {(cell.transport, cell.mode, cell.batch) for cell in made} == {
        (transport, mode, batch) for transport in ("none", "grpc") for mode in ("layer", "submodel") for batch in (1, 8)
    }


@pytest.mark.parametrize(
    ("text", "cuts"),
    [
        ("equal", ["equal"]),
        ("equal,balanced", ["equal", "balanced"]),
        ("add_1,add_2", ["add_1+add_2"]),
        ("add_1", ["add_1"]),
        ("equal,add_1+add_2", ["equal", "add_1+add_2"]),
        ("a+b, c+d", ["a+b", "c+d"]),
    ],
)
def test_cut(text: str, cuts: list[str]) -> None:
    assert [cell.cut for cell in cells("--mode", "submodel", "--cut", text)] == cuts


def test_a_cut_applies_to_mode_submodel_alone() -> None:
    made = cells("--mode", "layer,submodel", "--cut", "equal,balanced")
    assert [(cell.mode, cell.cut) for cell in made] == [
        ("layer", "equal"),
        ("submodel", "equal"),
        ("submodel", "balanced"),
    ]


def test_mode_whole_ignores_settings_of_servers_and_neighbours() -> None:
    argv = ["--mode", "whole", "--servers", "2,5", "--placement", "contiguous,round-robin", "--local-calls", "on,off"]
    assert cells("--transport", "grpc", *argv) == [Cell("grpc", "whole", servers=1)]
    assert cells("--transport", "none", *argv, "--registry", "per-hop") == [local_of(Cell())]


def test_cells_whose_transport_lacks_the_codec_are_left_out() -> None:
    made = cells("--transport", "none,rpyc,grpc", "--codec", "raw,tensorproto")
    assert [(cell.transport, cell.codec) for cell in made] == [
        ("none", "raw"),
        ("rpyc", "raw"),
        ("grpc", "raw"),
        ("grpc", "tensorproto"),
    ]


def test_the_codecs_are_those_of_the_transports() -> None:
    found = dict.fromkeys(codec for name in transports.NAMES for codec in transports.load(name).codecs)
    assert SETTINGS["codec"].valid == tuple(found)


@pytest.mark.parametrize(
    ("argv", "made"),
    [
        (["--transport", "rest"], ["rest/json"]),
        (["--transport", "none,grpc,rest"], ["none/raw", "grpc/raw", "rest/json"]),
        (["--transport", "grpc,rest", "--codec", "raw,json-b64"], ["grpc/raw", "rest/json-b64"]),
        (["--transport", "rest", "--codec", "json,json-b64"], ["rest/json", "rest/json-b64"]),
        (["--transport", "none,rest", "--codec", "json-b64"], ["none/raw", "rest/json-b64"]),
    ],
)
def test_a_transport_uses_its_default_codec_without_the_flag(argv: list[str], made: list[str]) -> None:
    assert [f"{cell.transport}/{cell.codec}" for cell in cells(*argv)] == made


def _texts(value: object) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


@settings(max_examples=50, deadline=None)
@given(EXPERIMENTS)
def test_every_experiment_can_be_written_as_flags(experiment: Experiment) -> None:
    values = {item: getattr(experiment.cells[0], item) for item in CELL_FIELDS}
    values |= {item: getattr(experiment, item) for item in SETTINGS if item not in CELL_FIELDS}
    texts = [(SETTINGS[name].flag, text) for name, value in values.items() for text in _texts(value)]
    argv = [f"{flag}={text}" for flag, text in texts]
    argv += [f"--option={key}={text}" for key, text in experiment.option.items()]
    assert parse(argv)[0] == experiment


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([setting.flag for setting in SETTINGS.values()] + ["--option"]), st.text())
def test_any_text_is_used_or_refused(flag: str, text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse([f"{flag}={text}"])[0].cells
