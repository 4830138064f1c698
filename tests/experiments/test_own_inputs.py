"""Inputs of the user's own, in real processes: arrays, an absent input, and values that the command refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from experiments import run
from experiments.spec.flags import parse
from partitioning import show
from tests.kinds import optional


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model that has optional inputs, and three samples for its other inputs."""
    made = tmp_path_factory.mktemp("inputs")
    optional().save(made / "model.keras")
    draw = np.random.default_rng(1)
    np.savez(made / "data.npz", x=draw.standard_normal((3, 5, 4), np.float32), shift=np.ones((3, 5, 4), np.float32))
    return made


def words(folder: Path, *more: str) -> list[str]:
    return ["--model", str(folder / "model.keras"), "--input", str(folder / "data.npz"), "--absent", "mask", *more]


@pytest.mark.slow
def test_arrays_and_an_absent_input_go_through_every_flow(folder: Path, tmp_path: Path) -> None:
    few = ["--transport", "tcp", "--flow", "nested,hub,forward", "--batch", "2", "--servers", "2", "--runs", "4"]
    few += ["--import", "tests.kinds"]
    assert run.main(words(folder, *few, "--out", str(tmp_path / "out"))) == 0
    record = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert record["complete"]
    assert record["experiment"]["absent"] == ["mask"]
    assert record["experiment"]["input"] == "data.npz"


def test_show_measures_with_the_input_of_requests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert show.main(words(folder, "--servers", "2", "--cut", "balanced")) == 0
    assert " ms " in capsys.readouterr().out
    assert show.main(words(folder, "--servers", "2", "--absent", "shift")) == 2
    assert "no input 'shift' for the array of that name" in capsys.readouterr().err


def test_inputs_are_flags_and_keys_of_a_file(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('absent = ["a", "b"]\nextent = "x:1=3"\nscale = "-1..1"\n')
    flags = ["--absent", "a", "--absent", "b", "--extent", "x:1=3", "--scale", "-1..1"]
    for experiment in (parse(["--spec", str(spec)])[0], parse(flags)[0]):
        assert (experiment.absent, experiment.extent, experiment.scale) == (("a", "b"), ("x:1=3",), "-1..1")
