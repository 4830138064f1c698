"""Models whose classes or code come from the user: `--import MODULE` and `--trust-model`, over real processes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import keras
import pytest

from experiments.spec.flags import parse
from tests.running import Run

pytestmark = pytest.mark.slow

MODULE = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A module `own_layers` with a layer class, and a model in which that layer or a lambda stands."""
    made = tmp_path_factory.mktemp("own")
    (made / "own_layers.py").write_text(MODULE)
    found: dict[str, type[keras.layers.Layer]] = {}
    exec(MODULE, found)
    for name, layer in (("own", found["Twice"](name="own")), ("lambda", keras.layers.Lambda(lambda x: 3 * x))):
        layers = [keras.Input((6,)), keras.layers.Dense(8), layer, keras.layers.Dense(4)]
        keras.Sequential(layers).save(made / f"{name}.keras")
    return made


def run(folder: Path, model: str, *flags: str) -> tuple[int, str, Run]:
    out = folder / "-".join((model, *flags))
    common = ("--mode", "layer", "--servers", 2, "--transport", "grpc", "--runs", 2, "--out", out)
    done = Run("--model", folder / f"{model}.keras", *flags, *common, env={**os.environ, "PYTHONPATH": str(folder)})
    return *done.finish(), done


@pytest.mark.parametrize(("model", "flag"), [("own", "--import own_layers"), ("lambda", "--trust-model")])
def test_a_model_runs_once_its_code_may_be_loaded(folder: Path, model: str, flag: str) -> None:
    status, said, _ = run(folder, model)
    assert (status, flag.split()[0] in said, len(said.splitlines())) == (2, True, 1)
    status, said, done = run(folder, model, *flag.split())
    assert status == 0, said
    assert "grpc" in done.out
    record = json.loads((folder / "-".join((model, *flag.split())) / "environment.json").read_text())
    assert (record["complete"], record["experiment"]["imports"]) == (True, flag.split()[1:])


def test_modules_are_given_by_several_flags_or_a_list(tmp_path: Path) -> None:
    experiment, _ = parse(["--import", "one", "--import", "two"])
    assert experiment.imports == ("one", "two")
    spec = tmp_path / "spec.toml"
    spec.write_text('import = ["one", "two"]\n')
    assert parse(["--spec", str(spec)])[0].imports == ("one", "two")


def test_a_module_that_cannot_be_imported_is_named(folder: Path) -> None:
    status, said, _ = run(folder, "own", "--import", "no_such_module")
    assert (status, "no_such_module" in said) == (2, True)
