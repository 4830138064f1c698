"""Models from files: both formats, custom layers with and without their module, pickled code, and unusable files."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from partitioning import archive, models
from partitioning.errors import PartitionError
from partitioning.plan import Stage
from partitioning.strategies import make_plan
from tests.models import MODELS, flat_outputs, inputs_for
from tests.partitioning.conftest import run_chained
from tests.partitioning.test_archive import through_files

OWN = """
import keras

@keras.saving.register_keras_serializable("mine")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return inputs * 2.0
"""
ROOT = str(Path(__file__).parents[2])


def _python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new process in `folder`, which contains the module `mylayers` of a custom layer."""
    (folder / "mylayers.py").write_text(OWN)
    code = f"import sys; sys.path.append({ROOT!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


SUFFIXES = ("keras", "h5")
MAKE = """
import keras, mylayers
x = keras.Input((3,), name="x")
model = keras.Model(x, mylayers.Doubled(name="doubled")(x))
for suffix in {suffixes}:
    model.save(f"own.{{suffix}}")
"""
LOAD = """
from pathlib import Path
from partitioning import archive, models
from partitioning.errors import PartitionError
for imports in ((), ("mylayers",)):
    for suffix in {suffixes}:
        try:
            program = models.load(f"own.{{suffix}}", imports=imports).read()
            archive.export(program, program.steps, Path(suffix))
        except PartitionError as error:
            print(error)
"""
RUN = """
import sys
from pathlib import Path
from partitioning import archive, engines
from partitioning.plan import Stage
assert "mylayers" not in sys.modules
for suffix in {suffixes}:
    program = archive.load(Path(suffix))
    run = engines.build("eager", program, Stage("s", ("x",), ("doubled",), ("doubled",)))
    print(run([[[1.0, 2.0, 3.0]]])[0].numpy())
"""


@pytest.mark.slow
def test_the_module_of_a_custom_layer_is_imported_with_the_model_and_with_a_portion(tmp_path: Path) -> None:
    made, loaded, run = (_python(code.format(suffixes=SUFFIXES), tmp_path) for code in (MAKE, LOAD, RUN))
    assert made.returncode == 0, made.stderr
    assert loaded.stdout.splitlines() == [
        f"own.{suffix} (written by Keras {keras.__version__}) needs the class 'Doubled' of package 'mine'; "
        "give the module that registers it: --import MODULE"
        for suffix in SUFFIXES
    ], loaded.stderr
    assert run.stdout == "[[2. 4. 6.]]\n" * len(SUFFIXES), run.stderr


def test_a_missing_module_is_refused() -> None:
    with pytest.raises(PartitionError, match="--import no_such_module: the module cannot be imported: ModuleNotFound"):
        models.load("MobileNetV2", imports=["no_such_module"])


@pytest.mark.parametrize("suffix", ["keras", "h5", "hdf5"])
def test_a_file_brings_its_own_weights(suffix: str, tmp_path: Path) -> None:
    model = MODELS["shared-layer"]()
    model.save(tmp_path / f"mine.{suffix}")
    loaded = models.load(str(tmp_path / f"mine.{suffix}"))
    inputs = inputs_for(model)
    np.testing.assert_array_equal(flat_outputs(loaded.model, inputs)[0], flat_outputs(model, inputs)[0])
    assert loaded.name == "mine"
    assert [tuple(tensor.shape) for tensor in loaded.model.inputs] == [(None, 6)]
    assert loaded.preprocess is None


PICKLED: Mapping[str, Callable[[Any], Any]] = {
    "Lambda layer": layers.Lambda(lambda value: value * 2, name="code"),
    "lambda function": lambda x: keras.ops.map(lambda value: value * 2, x),
}


@pytest.mark.parametrize(
    ("what", "suffix"), [("Lambda layer", "keras"), ("Lambda layer", "h5"), ("lambda function", "keras")]
)
def test_pickled_code_runs_only_with_trust(what: str, suffix: str, tmp_path: Path) -> None:
    path, x = tmp_path / f"code.{suffix}", keras.Input((4,), name="x")
    model = keras.Model(x, PICKLED[what](x))
    model.save(path)
    with pytest.raises(PartitionError, match=f"holds a {what}, which is pickled code and is not run; --trust-model"):
        models.load(str(path))
    program = models.load(str(path), trust=True).read()
    plan, inputs = make_plan(program.graph, "whole"), inputs_for(model)
    (got,) = run_chained(plan, through_files(program, plan, tmp_path / "files"), inputs)
    np.testing.assert_array_equal(got, flat_outputs(model, inputs)[0])


def test_a_layer_named_like_a_lambda_layer_is_loaded(tmp_path: Path) -> None:
    x = keras.Input((4,), name="x")
    keras.Model(x, layers.Dense(2, name="lambda_x")(x)).save(tmp_path / "named.keras")
    assert list(models.load(str(tmp_path / "named.keras")).read().steps) == ["lambda_x"]


def _missing_class(path: Path) -> None:
    """Write a file of an older Keras with a long configuration, an unknown class, and layers called `lambda_<i>`."""
    x = y = keras.Input((4,), name="x")
    for number in range(30):
        y = layers.Dense(4, name=f"lambda_{number}")(y)
    keras.Model(x, y).save(path)
    with zipfile.ZipFile(path) as file:
        parts = {name: file.read(name) for name in file.namelist()}
    config = json.loads(parts["config.json"])
    config["config"]["layers"][1] |= {"class_name": "Gone", "module": None, "registered_name": "far.away>Gone"}
    parts |= {"config.json": json.dumps(config).encode(), "metadata.json": b'{"keras_version": "3.0.1"}'}
    with zipfile.ZipFile(path, "w") as file:
        for name, data in parts.items():
            file.writestr(name, data)


def _operations_in_hdf5(path: Path) -> None:
    x = keras.Input((4,), name="x")
    keras.Model(x, keras.ops.greater(x, x * 2)).save(path)


FILES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("gone.keras", lambda path: None, "gone.keras does not exist"),
    "folder": ("mine.keras", lambda path: path.mkdir(), "mine.keras is a folder; give the file that model.save wrote"),
    "garbage": ("text.keras", lambda path: path.write_text("hello"), "text.keras is not in the .keras format"),
    "garbage in HDF5": ("old.h5", lambda path: path.write_text("hello"), "old.h5 is not in the HDF5 format of a whole"),
    "weights alone": (
        "my.weights.h5",
        lambda path: MODELS["sequential"]().save_weights(path),
        "my.weights.h5 is not in the HDF5 format of a whole model",
    ),
    "other suffix": ("dir/old.pb", lambda path: None, "old.pb is no model file; write the model with model.save"),
    "no name of a file": ("a\0b.keras", lambda path: None, ".keras does not exist"),
    "long name": ("x" * 5000 + ".keras", lambda path: None, "x.keras does not exist"),
    "missing class": (
        "far.keras",
        _missing_class,
        "far.keras (written by Keras 3.0.1) needs the class 'Gone' of package 'far.away'; give the module that",
    ),
    "operations in HDF5": (
        "ops.h5",
        _operations_in_hdf5,
        "holds the Keras operation 'Greater', which HDF5 cannot; save",
    ),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_loaded_are_refused_on_one_line(case: str, tmp_path: Path) -> None:
    name, make, reason = FILES[case]
    make(tmp_path / name)
    with pytest.raises(PartitionError) as caught:
        models.load(str(tmp_path / name))
    assert reason in str(caught.value)
    assert len(str(caught.value)) <= 300
    assert "\n" not in str(caught.value)


def test_a_portion_without_trust_runs_no_pickled_code(tmp_path: Path) -> None:
    path = tmp_path / "code.keras"
    x = keras.Input((4,), name="x")
    keras.Model(x, PICKLED["Lambda layer"](x)).save(path)
    program = models.load(str(path), trust=True).read()
    archive.export(program, ["code"], tmp_path)
    record = json.loads((tmp_path / "operations.json").read_text())
    (tmp_path / "operations.json").write_text(json.dumps(record | {"trust": False}))
    with pytest.raises(PartitionError, match=r"operations\.json is not a usable portion of a model: .*ambda"):
        archive.load(tmp_path)
    assert program.function(Stage("s", ("x",), ("code",), ("code",)))
