"""The whole numbers that consumers of a model's inputs take: rows of an embedding, categories of an encoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from keras import layers

from partitioning.graph import TensorInfo
from partitioning.keras_internals import sublayers
from partitioning.steps import Step

COUNTS: Mapping[type[Any], str] = {layers.Embedding: "input_dim", layers.CategoryEncoding: "num_tokens"}
"""Layer that takes whole numbers -> its attribute with the number of valid values, which count from 0."""

PASSING = frozenset(
    {
        *("Reshape", "Flatten", "Permute", "RepeatVector", "Identity", "Dropout", "Concatenate", "Cropping1D"),
        *("Cast", "GetItem", "Squeeze", "ExpandDims", "Transpose", "Stack", "Flip", "Roll", "Repeat", "Split", "Tile"),
        *("BroadcastTo", "Copy", "Ravel", "Swapaxes", "Moveaxis", "Unstack", "StopGradient"),
    }
)
"""Classes of layers and operations that only move the values of their arguments to other places."""


def limits(steps: Sequence[Step], inputs: Sequence[TensorInfo]) -> dict[str, int]:
    """Input -> the least number of valid values of the layers that take it, directly or after `PASSING` operations.

    `steps` are in an order in which they can run. Inputs of layers that take any value are left out.
    """
    found: dict[str, int] = {}
    for step in reversed(steps):
        counts = [
            getattr(layer, attribute)
            for layer in sublayers(step.operation)
            for kind, attribute in COUNTS.items()
            if isinstance(layer, kind)
        ]
        if type(step.operation).__name__ in PASSING:
            counts += [found[name] for name in step.outputs if name in found]
        for name in step.inputs if counts else ():
            found[name] = min(*counts, found.get(name, counts[0]))
    return {info.name: found[info.name] for info in inputs if info.name in found and info.dtype != "string"}
