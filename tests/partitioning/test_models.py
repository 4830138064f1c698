"""Loading models, calibrating random weights, and the command that shows a plan."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

from partitioning import models, show
from partitioning.calibration import VIEWS, calibrate, views
from partitioning.errors import PartitionError
from partitioning.plan import Plan
from partitioning.program import read
from tests.models import MODELS, flat_outputs


def _deep() -> keras.Model:
    """A model of all kinds of layers that calibration changes, with kernels that are far too small."""
    keras.utils.set_random_seed(3)
    small = keras.initializers.RandomNormal(stddev=1e-4, seed=3)
    options = {"kernel_initializer": small, "padding": "same"}
    x = keras.Input((16, 16, 3), name="x")
    y = layers.Conv2D(8, 3, activation="sigmoid", name="conv", **options)(x)
    shared = layers.Conv2D(8, 1, name="shared", **options)
    y = shared(shared(y))
    y = layers.BatchNormalization(name="norm")(layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y))
    y = layers.SeparableConv2D(8, 3, pointwise_initializer=small, padding="same", name="separable")(y)
    y = layers.EinsumDense("bhwc,cd->bhwd", (None, None, 8), bias_axes="d", kernel_initializer=small, name="einsum")(y)
    y = layers.GlobalAveragePooling2D(name="pool")(layers.Activation("gelu", name="gelu")(y))
    return keras.Model(x, layers.Dense(10, "softmax", kernel_initializer=small, name="dense")(y))


def _spread_after(model: keras.Model, name: str, inputs: np.ndarray) -> float:
    return float(np.std(keras.Model(model.input, model.get_layer(name).output)(inputs)))


def test_calibrated_activations_are_of_order_one() -> None:
    model, images = _deep(), views(None, (None, 16, 16, 3), seed=1)
    before = flat_outputs(model, [images])[0]
    assert np.ptp(before) < 1e-4
    calibrate(read(model), [images])
    for name in ("shared", "depthwise", "norm", "separable", "einsum"):
        assert 0.5 < _spread_after(model, name, images) < 2, name
    answers = flat_outputs(model, [images])[0]
    assert np.abs(answers[0] - answers[1]).max() > 0.02


def test_calibration_is_deterministic() -> None:
    images = views(None, (None, 16, 16, 3), seed=1)
    first, second = _deep(), _deep()
    for model in (first, second):
        calibrate(read(model), [images])
    for one, other in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_calibration_restores_the_activation_functions() -> None:
    model = _deep()
    calibrate(read(model), [views(None, (None, 16, 16, 3), seed=1)])
    assert model.get_layer("conv").activation is keras.activations.sigmoid
    assert model.get_layer("dense").activation is keras.activations.softmax


def test_views_have_the_models_shape() -> None:
    photograph = np.random.default_rng(0).uniform(0, 255, (1, 40, 60, 3))
    assert views(photograph, (None, 24, 32, 3), 0).shape == (1 + 4, 24, 32, 3)
    assert views(np.repeat(photograph, 4, 0), (None, 24, 32, 3), 0).shape == (4, 24, 32, 3)
    made = views(None, (None, None, None, 3), 0)
    assert made.shape == (VIEWS, 224, 224, 3)
    assert made.dtype == np.float32
    assert made.min() >= 0
    assert made.max() <= 255


def test_unknown_names_are_refused_with_a_similar_one() -> None:
    with pytest.raises(
        PartitionError, match=r"no model 'MobilNetV2' in keras\.applications; did you mean 'MobileNetV2'"
    ):
        models.load("MobilNetV2")
    with pytest.raises(PartitionError, match="no weights 'imagnet'; did you mean 'imagenet'"):
        models.load("MobileNetV2", weights="imagnet")


def test_a_failed_download_names_the_file_to_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The proxy is a closed port, as if the machine had no internet connection."""
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("urllib.request._opener", None)  # else urllib keeps the proxy for all later tests
    monkeypatch.setattr("keras.src.utils.file_utils.config.keras_home", lambda: str(tmp_path))
    with pytest.raises(PartitionError) as caught:
        models.load("MobileNetV3Small", weights="imagenet")
    file = f"{tmp_path}/models/weights_mobilenet_v3_small_224_1.0_float.h5"
    assert f"Place that file at {file}, or use random weights" in str(caught.value)
    assert "https://storage.googleapis.com/" in str(caught.value)


def _show(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "partitioning.show", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--mode", "layers"], "--mode: no mode 'layers'; did you mean 'layer'? (valid: whole, layer, submodel)"),
        (["--placement", "robin"], "--placement: no placement 'robin'"),
        (["--servers", "0"], "--servers: 0 is too small; valid: 1 or more"),
        (["--cut", "balanced", "--costs", "none"], "--cut balanced needs costs"),
        (["--colour", "red"], "no flag '--colour'"),
        (["--servers", "2", "--servers", "3"], "--servers: given twice; give it once"),
    ],
)
def test_show_refuses_at_once_and_in_one_line(arguments: list[str], reason: str) -> None:
    done = _show(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert reason in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("models") / "fork.keras"
    MODELS["fork-join"]().save(path)
    return str(path)


@pytest.mark.slow
def test_show_prints_the_plan_and_writes_it(saved: str, tmp_path: Path) -> None:
    file = tmp_path / "plan.json"
    done = _show("--model", saved, "--servers", "3", "--cut", "balanced", "--json", str(file))
    assert done.returncode == 0, done.stderr
    assert "3 stages" in done.stdout
    assert "from stem" in done.stdout
    assert " ms " in done.stdout
    assert len(Plan.from_json(file.read_text()).stages) == 3
    assert json.loads(file.read_text())["mode"] == "submodel"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--cut", "lefd,join"], "no operation 'lefd' to cut before; did you mean 'left'"),
        (["--servers", "50"], "50 groups of 7 operations: valid are 1 to 7"),
        (["--mode", "layer", "--servers", "50"], "--servers 50: this plan has 7 stages"),
        (["--json", "/nowhere/plan.json"], "--json /nowhere/plan.json: No such file or directory"),
    ],
)
def test_show_refuses_values_that_do_not_fit_the_model(
    saved: str, arguments: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert show.main(["--model", saved, *arguments]) == 2
    assert reason in capsys.readouterr().err


def test_the_help_of_show_has_examples() -> None:
    done = _show("--help")
    assert done.returncode == 0
    assert "python -m partitioning.show --model InceptionV3 --mode submodel --servers 5" in done.stdout
