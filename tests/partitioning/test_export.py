"""Stages, written as SavedModels and loaded again, run as the model does; their names can be mapped to the plan's."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from tensorflow.core.protobuf import saved_model_pb2

from partitioning import served as names
from partitioning.errors import PartitionError
from partitioning.export import export, main
from partitioning.plan import Plan, Stage
from partitioning.program import read
from partitioning.served import Served
from partitioning.strategies import make_plan
from tests.models import MODELS, flat_outputs, inputs_for
from tests.partitioning.conftest import run_chained

MODES = ("whole", "layer", "submodel")


def loaded(served: Served, folder: Path, stage: Stage) -> Callable[[Sequence[Any]], list[Any]]:
    """The stage from its SavedModel, called by the names of its signature, as a client does."""
    whole = tf.saved_model.load(str(served.model_folder(folder, stage)))
    keys = [served.keys[name] for name in stage.inputs]

    def run(inputs: Sequence[Any]) -> list[Any]:
        given = {key: tf.constant(value) for key, value in zip(keys, inputs, strict=True)}
        answer = whole.signatures["serving_default"](**given)
        return [answer[served.keys[name]] for name in stage.outputs]

    return run


def assert_signature(plan: Plan, served: Served, folder: Path, stage: Stage) -> None:
    """Assert that the file has the plan's names, shapes and dtypes."""
    file = served.model_folder(folder, stage) / "saved_model.pb"
    signature = saved_model_pb2.SavedModel.FromString(file.read_bytes()).meta_graphs[0].signature_def["serving_default"]
    for tensors, infos in ((stage.inputs, signature.inputs), (stage.outputs, signature.outputs)):
        assert set(infos) == {served.keys[name] for name in tensors}
        for name in tensors:
            edge, info = plan.edges[name], infos[served.keys[name]]
            assert tuple(tf.TensorShape(info.tensor_shape)) == edge.shape
            assert tf.as_dtype(info.dtype).name == edge.dtype


def assert_right(model: keras.Model, plan: Plan, served: Served, folder: Path) -> None:
    stages = {stage.name: loaded(served, folder, stage) for stage in plan.stages}
    for batch in (1, 3):
        inputs = inputs_for(model, batch)
        found = run_chained(plan, stages, inputs)
        for one, other in zip(found, flat_outputs(model, inputs), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", MODELS)
def test_every_stage_survives_as_a_saved_model(name: str, mode: str, tmp_path: Path) -> None:
    model = MODELS[name]()
    program = read(model)
    plan = make_plan(program.graph, mode, "equal", 2)
    served = export(program, plan, tmp_path)
    for stage in plan.stages:
        assert_signature(plan, served, tmp_path, stage)
    assert_right(model, plan, served, tmp_path)
    assert Served.read(tmp_path) == served


HOSTILE = ("self", "lambda", "kwargs", "name", "training", "1st", "Zed", "x.y", "X", "zed", "STEM", "stem")


def _hostile() -> keras.Model:
    """Layers whose names are illegal names of parameters, or differ only in their case."""
    x = y = keras.Input((4,), name="x")
    for name in HOSTILE:
        y = layers.Dense(4, activation="tanh", name=name)(y)
    return keras.Model(x, [y, layers.Activation("linear", name="same")(x)])


def _low_precision() -> keras.Model:
    x = keras.Input((4,), name="x", dtype="int32")
    return keras.Model(x, layers.Dense(3, dtype="bfloat16", name="low")(layers.Embedding(9, 4, name="rows")(x)))


def _seeded() -> keras.Model:
    """Layers with a state that inference does not use."""
    x = keras.Input((4,), name="x")
    return keras.Model(x, layers.BatchNormalization(name="norm")(layers.Dropout(0.5, name="drop")(x)))


SPECIAL: dict[str, Callable[[], keras.Model]] = {"names": _hostile, "dtypes": _low_precision, "state": _seeded}


@pytest.mark.parametrize("case", SPECIAL)
def test_special_models_survive(case: str, tmp_path: Path) -> None:
    model = SPECIAL[case]()
    program = read(model)
    plan = make_plan(program.graph, "layer")
    served = export(program, plan, tmp_path)
    for stage in plan.stages:
        assert_signature(plan, served, tmp_path, stage)
    assert_right(model, plan, served, tmp_path)


def unescape(name: str) -> str:
    """The inverse of `served.escape`."""
    return re.sub(r"Z([0-9a-f]+)Z", lambda found: chr(int(found[1], 16)), name)


@given(st.lists(st.text(min_size=1), unique=True))
def test_escaped_names_are_legal_and_reversible(words: list[str]) -> None:
    keys, models = [names.signature_key(word) for word in words], [names.model_name(word) for word in words]
    assert [unescape(key) for key in keys] == [unescape(model) for model in models] == words
    assert all(key.isidentifier() and key.isascii() and key[0].isalpha() for key in keys)
    assert not any(set(model) & set("/:%\\ ") or model.startswith(".") for model in models)


@pytest.mark.parametrize(
    ("name", "key", "model"),
    [
        ("conv_1", "conv_1", "conv_1"),
        ("stage-00", "stageZ2dZ00", "stage-00"),
        ("a/b:1", "aZ2fZbZ3aZ1", "aZ2fZbZ3aZ1"),
        ("Zed", "Z5aZed", "Z5aZed"),
        ("lambda", "Z6cZambda", "lambda"),
    ],
)
def test_examples_of_escaped_names(name: str, key: str, model: str) -> None:
    assert (names.signature_key(name), names.model_name(name)) == (key, model)


def run(*flags: str) -> int:
    return main([*flags])


@pytest.fixture
def keras_file(tmp_path: Path) -> str:
    MODELS["nested"]().save(tmp_path / "nested.keras")
    return str(tmp_path / "nested.keras")


def test_the_command_line(keras_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "to"
    flags = ["--model", keras_file, "--servers", "3", "--json", str(tmp_path / "plan.json"), "--to", str(folder)]
    assert run(*flags) == 0
    out = f"3 stages in {folder}; {folder}/models.config configures one server for all of them\n"
    assert capsys.readouterr().out == out
    served = Served.read(folder)
    assert Plan.from_json((tmp_path / "plan.json").read_text()) == served.plan
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["models.config", "plan.json", *(f"server-{i}.config" for i in range(3)), "stage-0", "stage-1", "stage-2"]
    )
    assert all((served.model_folder(folder, stage) / "saved_model.pb").is_file() for stage in served.plan.stages)
    assert json.loads((folder / "plan.json").read_text())["serving"]["keys"]["inner/skip"] == "innerZ2fZskip"


def test_configurations_list_the_models_of_each_server(tmp_path: Path) -> None:
    program = read(MODELS["sequential"]())
    export(program, make_plan(program.graph, "layer"), tmp_path, {"first": 0, "second": 1, "third": 0, "last": 1})
    held = {path.name: path.read_text().count("config {") for path in tmp_path.glob("*.config")}
    assert held == {"models.config": 4, "server-0.config": 2, "server-1.config": 2}
    assert f'name: "third" base_path: "{tmp_path}/third"' in (tmp_path / "server-0.config").read_text()


REFUSED = {
    "a folder that is not empty": (["--to", "FULL"], "is not empty; name a folder that is empty or does not exist"),
    "a file": (["--to", "FULL/file"], "is no folder"),
    "no folder": ([], "--to"),
    "an unknown mode": (["--mode", "other", "--to", "NEW"], "--mode: no mode 'other'"),
    "no number": (["--servers", "0", "--to", "NEW"], "--servers: 0 is too small; valid: 1 or more"),
    "an unknown model": (["--model", "other", "--to", "NEW"], "no model 'other' in keras.applications"),
    "an unknown placement": (["--placement", "other", "--to", "NEW"], "--placement: no placement 'other'"),
    "too many servers": (["--model", "KERAS", "--mode", "layer", "--servers", "99", "--to", "NEW"], "10 stages"),
    "an unknown flag": (["--other", "--to", "NEW"], "--other"),
    "a repeated flag": (["--to", "NEW", "--to", "NEW"], "--to: given twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_value_that_cannot_be_used_is_refused(
    case: str, keras_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags, words = REFUSED[case]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {"FULL": str(tmp_path / "full"), "NEW": str(tmp_path / "new"), "KERAS": keras_file}
    places["FULL/file"] = str(tmp_path / "full" / "file")
    assert run(*(places.get(flag, flag) for flag in flags)) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "text", ["{", "{}", "[]", "null", '{"serving": 3}', '{"serving": {"models": {}}}', "[" * 99999]
)
def test_a_folder_without_a_plan_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(PartitionError, match=r"plan\.json: No such file"):
        Served.read(tmp_path)
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(PartitionError, match=r"plan\.json names no models|this is no plan"):
        Served.read(tmp_path)
