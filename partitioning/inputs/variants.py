"""The different inputs that requests cycle through.

Requests differ, and the items of a batch differ too, so that the gate detects an answer that belongs to another request
or to another place in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from partitioning.errors import PartitionError
from partitioning.graph import TensorInfo
from partitioning.input_options import PHOTOGRAPH, PIXELS, SCALES, VARIANTS, InputSettings
from partitioning.inputs import arrays
from partitioning.inputs.images import Images, Pixels, is_image, scaled
from partitioning.inputs.seeded import seeded
from partitioning.inputs.shapes import check_batch, described, dtype_of, shape_of, with_extents
from partitioning.memory import check_memory

if TYPE_CHECKING:
    from partitioning.client_side import ClientSide

Array = NDArray[Any]
Preprocess = Callable[[Pixels], Pixels]

VALUE = 8
"""Bytes per value of a variant: the input, and its copy from the model's preprocessing."""


def check_input(settings: InputSettings) -> None:
    """Raise `PartitionError` for an input that cannot be read; called before anything costly starts."""
    path = Path(settings.input)
    if arrays.is_arrays(path):
        arrays.read(path)
    else:
        Images.at(path)


def photographs(settings: InputSettings, size: tuple[int, int], count: int) -> Pixels:
    """RGB images to calibrate a model with: the input's images, or views of the bundled one if the input is arrays."""
    path = Path(settings.input)
    return Images.at(PHOTOGRAPH if arrays.is_arrays(path) else path).batch(0, size, count)


def variants(
    settings: InputSettings,
    client: ClientSide,
    batch: int,
    preprocess: Preprocess | None = None,
    seed: int = 0,
    most: int = VARIANTS,
) -> list[dict[str, Array]]:
    """Inputs of a model, each with an array of this batch for every name in `client.inputs`.

    Arrays and the images of a folder are samples: a batch takes consecutive samples, cyclically, and there is a variant
    for each different batch, up to `most`. Otherwise there are `VARIANTS` variants: views of one image, seeded values.
    Image inputs pass `preprocess`, or the scale of `settings`. Raises `PartitionError` for settings that the model
    cannot use, and for a batch that does not fit into memory.
    """
    infos = with_extents(client.inputs, settings.extent)
    check_batch(infos, batch)
    path = Path(settings.input)
    if arrays.is_arrays(path):
        _check_scale(settings.scale, [], preprocess)
        return _of_arrays(arrays.fitted(arrays.read(path), infos), batch, most)
    images = [info for info in infos if is_image(info)]
    if not images and path != PHOTOGRAPH:
        text = f"the model takes no image (its inputs: {', '.join(map(described, infos))})"
        raise PartitionError(f"--input: {text}; leave --input out, or give arrays in a .npz file")
    _check_scale(settings.scale, images, preprocess)
    adapt = preprocess or (lambda pixels: scaled(pixels, settings.scale))
    source = Images.at(path)
    single = len(source.paths) == 1
    count = VARIANTS if single else min(most, _batches(len(source.paths), batch))
    _check_memory(sum(math.prod(shape_of(info, batch)[1:]) for info in infos), batch, count)

    def made(info: TensorInfo, variant: int, place: int) -> Array:
        number = variant * len(infos) + place  # among the arrays of all inputs of all variants
        if not is_image(info):
            return seeded(info, batch, seed + number, client.limits.get(info.name))
        _, height, width, channels = shape_of(info, batch)
        first = batch * (number if single else variant + place)
        return adapt(source.batch(first, (height, width), batch, channels)).astype(dtype_of(info))

    return [{info.name: made(info, variant, place) for place, info in enumerate(infos)} for variant in range(count)]


def _of_arrays(found: Mapping[str, Array], batch: int, most: int) -> list[dict[str, Array]]:
    samples = len(next(iter(found.values())))
    count = min(most, _batches(samples, batch))
    _check_memory(sum(array.size // samples for array in found.values()), batch, count)
    taken = [np.arange(variant * batch, (variant + 1) * batch) % samples for variant in range(count)]
    return [{name: array[places] for name, array in found.items()} for places in taken]


def _batches(samples: int, batch: int) -> int:
    """How many different batches there are if batches take consecutive samples cyclically."""
    return samples // math.gcd(samples, batch)


def _check_memory(values: int, batch: int, count: int) -> None:
    what = f"--batch: an input of {batch} samples, in {count} variants,"
    check_memory(what, batch, count * VALUE * values, "samples")


def _check_scale(scale: str, images: Sequence[TensorInfo], preprocess: Preprocess | None) -> None:
    """Raise `PartitionError` for a scale that the inputs `images` cannot have."""
    if scale == PIXELS:
        return
    channels = len(SCALES[scale][0])
    for info in images:
        if dtype_of(info).kind in "iu":
            raise PartitionError(f"--scale {scale}: {described(info)} takes whole numbers; leave --scale out")
        if channels not in (1, info.shape[3]):
            raise PartitionError(
                f"--scale {scale}: {described(info)} has no {channels} channels; valid: 0..255, 0..1, -1..1"
            )
    if preprocess or not images:
        why = "the model has its own preprocessing" if preprocess else "there is no image to scale"
        raise PartitionError(f"--scale {scale}: {why}; leave it out")
