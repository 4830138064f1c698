"""Small models of KerasHub's families, each made from a configuration: nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import keras_hub  # type: ignore[import-not-found,import-untyped,unused-ignore]

hub = keras_hub.models
TEXT = {"vocabulary_size": 50, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "intermediate_dim": 32}
GROUPED = {"num_heads": None, "num_query_heads": 2, "num_key_value_heads": 1}
"""Options of a decoder whose query heads share keys and values."""
IMAGE = {"image_shape": (64, 64, 3)}


def resnet(image: int = 64) -> keras.Model:
    return hub.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64] * 4,  # the first is 64 in all ResNets
        stackwise_num_blocks=[1] * 4,
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        image_shape=(image, image, 3),
    )


def vit() -> keras.Model:
    return hub.ViTBackbone(**IMAGE, patch_size=16, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


def mit() -> keras.Model:
    return hub.MiTBackbone(
        layerwise_depths=[1] * 4,
        num_layers=4,
        layerwise_num_heads=[1, 2, 2, 2],
        layerwise_sr_ratios=[8, 4, 2, 1],
        max_drop_path_rate=0.1,
        layerwise_patch_sizes=[7, 3, 3, 3],
        layerwise_strides=[4, 2, 2, 2],
        hidden_dims=[8, 16, 24, 32],  # all different: SegFormer names its layers after them
        **IMAGE,
    )


def segformer() -> keras.Model:
    """With a mask for three classes."""
    backbone = hub.SegFormerBackbone(image_encoder=mit(), projection_filters=8)
    return hub.SegFormerImageSegmenter(backbone=backbone, num_classes=3)


def deeplab() -> keras.Model:
    """With a mask for three classes."""
    backbone = hub.DeepLabV3Backbone(
        resnet(256),
        spatial_pyramid_pooling_key="P5",
        low_level_feature_key="P2",
        projection_filters=8,
        upsampling_size=8,
        dilation_rates=[6, 12],
    )
    image = keras.Input((256, 256, 3))  # KerasHub leaves the size open.
    return keras.Model(image, hub.DeepLabV3ImageSegmenter(backbone, num_classes=3)(image))


def efficientnet() -> keras.Model:
    return hub.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3],
        stackwise_num_repeats=[1, 2],
        stackwise_input_filters=[8, 8],
        stackwise_output_filters=[8, 16],
        stackwise_expansion_ratios=[1, 4],
        stackwise_squeeze_and_excite_ratios=[0.25, 0.25],
        stackwise_strides=[1, 2],
        stackwise_block_types=["v1", "v1"],
        stackwise_force_input_filters=[0, 0],
        stackwise_nores_option=[False, False],
        stackwise_width_coefficients=[1.0, 1.0],
        stackwise_depth_coefficients=[1.0, 1.0],
        input_shape=(64, 64, 3),
    )


def mobilenet() -> keras.Model:
    return hub.MobileNetBackbone(
        stackwise_expansion=[[40, 56], [64, 144, 144]],
        stackwise_num_blocks=[2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"] * 3],
        stackwise_padding=[[1, 1], [2, 2, 2]],
        output_num_filters=48,
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        last_layer_filter=48,
        squeeze_and_excite=0.5,
        input_num_filters=16,
        **IMAGE,
    )


def cspnet() -> keras.Model:
    return hub.CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stackwise_depth=[1, 1],
        stackwise_strides=[1, 2],
        stackwise_num_filters=[8, 16],
        block_type="dark_block",
        stage_type="dark",
        bottle_ratio=[0.5],
        **IMAGE,
    )


def swin() -> keras.Model:
    return hub.SwinTransformerBackbone(**IMAGE, embed_dim=8, depths=[2, 2], num_heads=[1, 2], window_size=4)


def sam() -> keras.Model:
    encoder = hub.ViTDetBackbone(
        hidden_size=16,
        num_layers=2,
        intermediate_dim=32,
        num_heads=2,
        global_attention_layer_indices=[1],
        patch_size=16,
        num_output_channels=8,
        window_size=2,
        image_shape=(128, 128, 3),
    )
    prompts = keras_hub.layers.SAMPromptEncoder(
        hidden_size=8, image_embedding_size=(8, 8), input_image_size=(128, 128), mask_in_channels=16
    )
    decoder = keras_hub.layers.SAMMaskDecoder(
        num_layers=2,
        hidden_size=8,
        intermediate_dim=32,
        num_heads=2,
        embedding_dim=8,
        num_multimask_outputs=3,
        iou_head_depth=2,
        iou_head_hidden_dim=8,
    )
    return hub.SAMBackbone(image_encoder=encoder, prompt_encoder=prompts, mask_decoder=decoder)


def text(backbone: str, **options: Any) -> Callable[[], keras.Model]:
    """A function that makes a model of text. `options` change `TEXT` or add to it; None leaves an option out."""
    known = {key: value for key, value in {**TEXT, **options}.items() if value is not None}
    return lambda: getattr(hub, f"{backbone}Backbone")(**known)


def classifier() -> keras.Model:
    """BERT with a head, for token numbers of any length."""
    return hub.BertTextClassifier(hub.BertBackbone(**TEXT), num_classes=3)


def writer() -> keras.Model:
    """GPT-2 with a probability of each token."""
    return hub.GPT2CausalLM(hub.GPT2Backbone(**TEXT))


FAMILIES: Mapping[str, Callable[[], keras.Model]] = {
    "ALBERT": text("Albert", embedding_dim=8),
    "BART": text("Bart"),
    "BERT": text("Bert"),
    "BERT, classifier": classifier,
    "Bloom": text("Bloom"),
    "DeBERTaV3": text("DebertaV3", bucket_size=8),
    "DistilBERT": text("DistilBert"),
    "ELECTRA": text("Electra", vocabulary_size=None, vocab_size=50, embedding_dim=8),
    "ESM": text("ESM"),
    "FNet": text("FNet", num_heads=None),
    "Falcon": text("Falcon", num_heads=None, num_attention_heads=2),
    "GPT-2": text("GPT2"),
    "GPT-2, writer": writer,
    "GPT-NeoX": text("GPTNeoX"),
    "Gemma": text("Gemma", **GROUPED, head_dim=8),
    "Llama": text("Llama", **GROUPED),
    "Mistral": text("Mistral", **GROUPED, sliding_window=8),
    "OPT": text("OPT"),
    "Phi-3": text("Phi3", **GROUPED),
    "Qwen3": text("Qwen3", **GROUPED, head_dim=8),
    "RoBERTa": text("Roberta"),
    "T5": text("T5"),
    "Whisper": text("Whisper", max_encoder_sequence_length=32, max_decoder_sequence_length=32),
    "XLM-RoBERTa": text("XLMRoberta"),
    "XLNet": text("XLNet"),
    "CSPDarkNet": cspnet,
    "DeepLabV3+, segmenter": deeplab,
    "DenseNet": lambda: hub.DenseNetBackbone([1, 1], growth_rate=8, **IMAGE),
    "EfficientNet": efficientnet,
    "MiT": mit,
    "MobileNet": mobilenet,
    "ResNet": resnet,
    "SAM": sam,
    "SegFormer, segmenter": segformer,
    "Swin": swin,
    "VGG": lambda: hub.VGGBackbone([1, 1], [8, 8], **IMAGE),
    "ViT": vit,
}
"""Title of a family -> a function that makes one of its models, in the order of docs/zoo.md."""
