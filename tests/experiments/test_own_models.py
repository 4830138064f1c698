"""Models with the user's own classes or code: `--import MODULE` and `--trust-model`, with nodes in real processes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import pytest

from experiments import run
from experiments.spec.flags import parse

MODULE = """
import keras

@keras.saving.register_keras_serializable("own")
class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x
"""


def forget() -> None:
    """Undo the import of `own_layers` in this process."""
    keras.saving.get_custom_objects().pop("own>Twice", None)
    sys.modules.pop("own_layers", None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A module `own_layers` on the path of all processes, and models with its layer (`own`) and with a lambda."""
    made = tmp_path_factory.mktemp("own")
    (made / "own_layers.py").write_text(MODULE)
    found: dict[str, type[keras.layers.Layer]] = {}
    exec(MODULE, found)
    for name, layer in (("own", found["Twice"](name="own")), ("lambda", keras.layers.Lambda(lambda x: 3 * x))):
        layers = [keras.Input((6,)), keras.layers.Dense(8), layer, keras.layers.Dense(4)]
        keras.Sequential(layers).save(made / f"{name}.keras")
    forget()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(made)
        patch.setenv("PYTHONPATH", str(made))
        yield made
    forget()


def words(folder: Path, model: str, out: Path, *more: str) -> list[str]:
    few = ["--mode", "layer", "--servers", "2", "--transport", "grpc", "--runs", "2"]
    return ["--model", str(folder / f"{model}.keras"), *few, "--out", str(out), *more]


@pytest.mark.slow
@pytest.mark.parametrize(("model", "flag"), [("own", ["--import", "own_layers"]), ("lambda", ["--trust-model"])])
def test_a_model_with_own_code_needs_its_flag(
    model: str, flag: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(words(folder, model, tmp_path / "refused")) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: ")
    assert flag[0] in last
    assert run.main(words(folder, model, tmp_path / "out", *flag)) == 0
    assert "grpc" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert (record["complete"], record["experiment"]["imports"]) == (True, flag[1:])


def test_modules_are_given_by_several_flags_or_a_list(tmp_path: Path) -> None:
    experiment, _ = parse(["--import", "one", "--import", "two"])
    assert experiment.imports == ("one", "two")
    spec = tmp_path / "spec.toml"
    spec.write_text('import = ["one", "two"]\n')
    assert parse(["--spec", str(spec)])[0].imports == ("one", "two")


def test_a_module_that_cannot_be_imported_is_named(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(words(folder, "own", tmp_path / "out", "--import", "no_such_module")) == 2
    assert "no_such_module" in capsys.readouterr().err.splitlines()[-1]
