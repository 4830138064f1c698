"""Models of KerasHub, made from a configuration and saved, run over gRPC in nodes, per layer and per submodel."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import keras_hub
import pytest

from experiments import run

pytestmark = pytest.mark.slow

SMALL = {"num_layers": 2, "hidden_dim": 16, "intermediate_dim": 32}


def text_classifier() -> keras.Model:
    """BERT with a head, for token numbers of any length."""
    backbone = keras_hub.models.BertBackbone(vocabulary_size=50, num_heads=2, **SMALL)
    return keras_hub.models.BertTextClassifier(backbone, num_classes=3)


def segmenter() -> keras.Model:
    """DeepLabV3+ with a mask of 256 x 256 for three classes."""
    encoder = keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64] * 4,
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(256, 256, 3),
    )
    backbone = keras_hub.models.DeepLabV3Backbone(
        encoder,
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        projection_filters=8,
        upsampling_size=8,
        dilation_rates=[6, 12],
    )
    image = keras.Input((256, 256, 3))  # KerasHub leaves the size open.
    return keras.Model(image, keras_hub.models.DeepLabV3ImageSegmenter(backbone, num_classes=3)(image))


MODELS: Mapping[str, Callable[[], keras.Model]] = {
    "text-classifier": text_classifier,
    "segmenter": segmenter,
}


@pytest.mark.parametrize("name", MODELS)
def test_a_model_runs_in_both_modes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    MODELS[name]().save(tmp_path / "model.keras")
    words = ["--transport", "grpc", "--mode", "layer,submodel", "--servers", "2", "--engine", "frozen", "--runs", "2"]
    assert run.main(["--model", str(tmp_path / "model.keras"), *words, "--out", str(tmp_path / "out")]) == 0
    assert "grpc" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["complete"]
