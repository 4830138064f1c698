"""Calibration: changes the weights of an untrained model so that activations stay of order one in all layers.

The layers run once, in order, on real data. A batch normalisation gets the statistics of the data. A layer that is
linear in its kernel is rescaled to an output of standard deviation one before its activation, and its bias, if any, is
shifted so that each channel has mean zero. (Layer-sequential unit-variance initialisation, Mishkin & Matas 2016;
centring as in Salimans & Kingma 2016.)

Without calibration, activations of MobileNetV3 shrink to 1e-7, and every class has the probability 0.001 for any image.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from partitioning.inputs.shapes import EXTENT
from partitioning.program import Program
from partitioning.steps import fill

Array = npt.NDArray[Any]

VIEWS = 4
"""The least number of images to calibrate with: each unit of a dense layer needs more than one value."""

LEAST_SPREAD = 0.1
"""The least ratio of a layer's spread to its magnitude: below it, images differ by little more than rounding."""

LINEAR = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.Dense,
    keras.layers.EinsumDense,
)
SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def calibrate(program: Program, inputs: Sequence[Array]) -> None:
    """Change the weights of the program's layers, each layer once, at its first call.

    `inputs` are preprocessed images, in the order of `program.graph.inputs`. Equal inputs and weights give equal
    results.
    """
    values = {name: keras.ops.convert_to_tensor(x) for name, x in zip(program.graph.inputs, inputs, strict=True)}
    uses = Counter(name for operation in program.graph.operations for name in operation.inputs)
    seen: set[int] = set()
    for operation in program.graph.operations:
        step = program.steps[operation.name]
        if id(step.operation) not in seen:
            seen.add(id(step.operation))
            args, kwargs = fill((step.args, dict(step.kwargs)), lambda tensor: values[tensor.name])
            _fit(step.operation, args, kwargs)
        values.update(zip(step.outputs, step.call(values.__getitem__), strict=True))
        uses.subtract(operation.inputs)
        for name in operation.inputs:
            if not uses[name]:
                del values[name]


def views(images: Array | None, shape: Sequence[int | None], seed: int) -> Array:
    """At least `VIEWS` float32 images in 0..255 of a model's input shape (batch, height, width, channels).

    They are the given images and their quarters, resized. Without images they are generated as dead leaves, which have
    the spectrum and the edges of photographs (Lee, Mumford & Huang 2001). With noise instead, a photograph would lie
    far outside the calibrated range, and all its class probabilities would be 0 or 1.
    """
    size = tuple(extent or EXTENT for extent in shape[1:3])
    if images is None:
        return _dead_leaves(size, shape[3] or 3, seed)
    whole = [_resized(images, size)]
    _, height, width, _ = images.shape
    for top in (slice(None, height // 2), slice(height // 2, None)):
        for left in (slice(None, width // 2), slice(width // 2, None)):
            whole.append(_resized(images[:, top, left], size))
    return np.concatenate(whole if len(images) < VIEWS else whole[:1])


def _dead_leaves(size: tuple[int, ...], channels: int, seed: int) -> Array:
    """Overlapping discs of all sizes, each in its own colour, with a little noise."""
    draw = np.random.default_rng(seed)
    rows, columns = np.ogrid[: size[0], : size[1]]
    images = np.empty((VIEWS, *size, channels), np.float32)
    for image in images:
        image[:] = draw.uniform(0, 255, channels)
        for radius in _radii(draw, max(size)):
            top, left = draw.uniform(0, size[0]), draw.uniform(0, size[1])
            grey, colour = draw.uniform(0, 255), draw.uniform(-60, 60, channels)
            image[(rows - top) ** 2 + (columns - left) ** 2 < radius**2] = grey + colour
    return np.clip(images + draw.normal(0, 5, images.shape), 0, 255).astype(np.float32)


def _radii(draw: np.random.Generator, extent: int, count: int = 400) -> Array:
    """Radii, largest first, with the density 1 / radius ** 3, so that all sizes cover the same area."""
    smallest, largest = extent / 80, extent / 2
    portions = draw.uniform(largest**-2.0, smallest**-2.0, count)
    return np.sort(portions**-0.5)[::-1]


def _resized(images: Array, size: tuple[int, ...]) -> Array:
    return np.asarray(keras.ops.image.resize(images.astype("float32"), size, interpolation="bilinear"))


def _fit(layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if isinstance(layer, keras.layers.BatchNormalization):
        _set_statistics(layer, args[0])
    elif isinstance(layer, SEPARABLE):
        _rescale(layer, layer.pointwise_kernel, args, kwargs)
    elif isinstance(layer, LINEAR):
        _rescale(layer, layer.kernel, args, kwargs)
    # ConvNeXt's own layer, which no public module exports, multiplies by `gamma`, initially 1e-6.
    elif type(layer).__name__ == "LayerScale":
        _rescale(layer, layer.gamma, args, kwargs)


def _set_statistics(layer: Any, x: Any) -> None:
    axes = [axis for axis in range(len(x.shape)) if axis != layer.axis % len(x.shape)]
    mean, variance = keras.ops.moments(keras.ops.cast(x, "float32"), axes)
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)


def _rescale(layer: Any, kernel: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Divide kernel and bias by the spread of the layer's output, which is linear in both."""
    with _linear(layer):
        result = np.asarray(keras.ops.cast(layer(*args, **kwargs), "float32"))
    bias, spread = getattr(layer, "bias", None), float(result.std())
    if bias is not None and tuple(bias.shape) == result.shape[-1:] and result.size > bias.shape[0]:
        centre = result.mean(axis=tuple(range(result.ndim - 1)))
        bias.assign(bias - centre)
        spread = max(float((result - centre).std()), LEAST_SPREAD * float(np.sqrt(np.square(result).mean())))
    if np.isfinite(spread) and spread > 0:
        for weight in [kernel] if bias is None else [kernel, bias]:
            weight.assign(weight / spread)


@contextmanager
def _linear(layer: Any) -> Iterator[None]:
    """Remove the layer's activation, if it has one, during the block."""
    activation: Callable[..., Any] | None = getattr(layer, "activation", None)
    if activation is not None:
        layer.activation = keras.activations.linear
    try:
        yield
    finally:
        if activation is not None:
            layer.activation = activation
