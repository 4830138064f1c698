"""Models of KerasHub, made from a configuration and saved, run over gRPC in nodes, per layer and per submodel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import run
from tools.families import FAMILIES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", ["BERT, classifier", "DeepLabV3+, segmenter"])
def test_a_model_runs_in_both_modes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    FAMILIES[name]().save(tmp_path / "model.keras")
    words = ["--transport", "grpc", "--mode", "layer,submodel", "--servers", "2", "--engine", "frozen", "--runs", "2"]
    assert run.main(["--model", str(tmp_path / "model.keras"), *words, "--out", str(tmp_path / "out")]) == 0
    assert "grpc" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["complete"]
