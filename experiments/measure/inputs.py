"""Inputs of a model: views of a photograph for image inputs, seeded numbers for others.

Requests cycle through `VARIANTS` different inputs, and the items of a batch differ too, so that the gate detects an
answer that belongs to another request or to another place in the batch.
"""

from __future__ import annotations

import math
import struct
import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from experiments.measure.memory import check_memory
from experiments.spec.experiment import PHOTOGRAPH
from experiments.spec.schedule import VARIANTS
from partitioning.graph import TensorInfo
from transports.base import DTYPES, Array
from transports.errors import UsageError

OPEN = 16
"""Extent of an open dimension other than the batch, for example of a sequence."""
EXTENT = 224
"""Pixels of an open dimension of an image."""
VALUE = 8
"""Bytes per value of a variant: the input, and its copy from the model's preprocessing."""
VOCABULARY = 10
"""Seeded integers are below this, since they are likely to be indices into a small vocabulary."""

WORDS = ("the cat sat", "on the mat", "a dog", "")
"""Seeded strings."""

Pixels = NDArray[np.float32]


def load_image(path: str | Path, size: tuple[int, int], batch: int, first: int = 0) -> Pixels:
    """The image at `path` as float32 RGB in 0..255, of shape (batch, h, w, 3), where `size` is (h, w).

    The first frame, turned upright by its EXIF tag, without alpha, stretched to `size` with Pillow's bicubic filter.
    Item k is `view(image, first + k)`. Raises `UsageError` for a file that is missing, unreadable, truncated, no image,
    or too large.
    """
    image = _upright(path)
    image = image.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32)
    return np.stack([view(pixels, first + item) for item in range(batch)])


def view(pixels: Pixels, number: int) -> Pixels:
    """View `number` of an image: rolled to the right by (number // 2) steps, and mirrored if the number is odd.

    A step is about a seventh of the width and coprime to it, so that the first 2 * width views all differ (from three
    columns on); after each full turn the image is also rolled down by one row.
    """
    height, width = pixels.shape[:2]
    step = next(step for step in range(max(1, width // 7), width + 1) if math.gcd(step, width) == 1)
    turns, across = divmod(number // 2, width)
    rolled = np.roll(pixels, (turns % height, across * step % width), axis=(0, 1))
    return rolled[:, ::-1] if number % 2 else rolled


def check_image(path: str | Path) -> None:
    """Raise the `UsageError` that `load_image` would raise; called before anything costly starts."""
    _upright(path)


def _upright(path: str | Path) -> Image.Image:
    """The decoded image. More than `Image.MAX_IMAGE_PIXELS` pixels are refused as a decompression bomb."""
    if not Path(path).is_file():
        raise UsageError(f"--input: no file {str(path)!r}; give an image file, such as a JPEG or a PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(path) as image:
                if image.mode.startswith(("I", "F")):  # Pillow would clip the values to 255 instead of scaling them
                    raise UsageError(f"--input: {str(path)!r} has more than 8 bits a channel; give an image with 8")
                return ImageOps.exif_transpose(image).convert("RGB")
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            limit = f"{Image.MAX_IMAGE_PIXELS} pixels at most"
            raise UsageError(f"--input: {str(path)!r} is too large; valid: {limit}") from error
        except UnidentifiedImageError as error:
            raise UsageError(f"--input: {str(path)!r} is no image; give a JPEG or a PNG") from error
        except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
            raise UsageError(f"--input: {str(path)!r} cannot be decoded: {error}; give a whole image") from error


def is_image(info: TensorInfo) -> bool:
    """Whether an input takes RGB images: (batch, h, w, 3), where h and w may be open."""
    return len(info.shape) == 4 and info.shape[0] is None and info.shape[3] == 3


def variants(
    infos: Sequence[TensorInfo],
    path: str | Path,
    batch: int,
    seed: int = 0,
    count: int = VARIANTS,
    limits: Mapping[str, int] = MappingProxyType({}),
) -> tuple[dict[str, Array], ...]:
    """`count` inputs of a model, each with a tensor for every name in `infos`.

    Image inputs get different views of the photograph at `path`, other inputs seeded numbers. An image input with open
    extents is 224 x 224. Integers of an input named in `limits` are below that limit. Raises `UsageError` as
    `load_image` does, for a `path` that the model cannot use, and for a batch that does not fit into memory.
    """
    if not any(is_image(info) for info in infos) and Path(path) != PHOTOGRAPH:
        shapes = ", ".join(f"{info.name} {info.dtype}{list(info.shape)}" for info in infos)
        raise UsageError(f"--input: the model takes no image (its inputs: {shapes}); leave --input out")
    values = sum(math.prod(_shape(info, batch=1)) for info in infos)
    check_memory(f"--batch: an input of {batch} images, in {count} variants,", batch, count * VALUE * values, "images")
    return tuple(
        {
            info.name: _tensor(info, path, batch, seed, variant * len(infos) + place, limits)
            for place, info in enumerate(infos)
        }
        for variant in range(count)
    )


def _tensor(info: TensorInfo, path: str | Path, batch: int, seed: int, number: int, limits: Mapping[str, int]) -> Array:
    """The tensor with this `number` among all inputs of all variants."""
    if not is_image(info):
        return seeded(info, batch, seed + number, limits.get(info.name, VOCABULARY))
    _, height, width, _ = _shape(info, batch)
    return load_image(path, (height, width), batch, number * batch).astype(DTYPES[info.dtype])


def _shape(info: TensorInfo, batch: int) -> tuple[int, ...]:
    """The shape with its open extents filled: the first is `batch`, others `EXTENT` in an image, else `OPEN`."""
    opened = info.shape.index(None) if None in info.shape else -1
    free = EXTENT if is_image(info) else OPEN
    return tuple(batch if place == opened else free if size is None else size for place, size in enumerate(info.shape))


def seeded(info: TensorInfo, batch: int, seed: int, limit: int = VOCABULARY) -> Array:
    """Values of the tensor's shape and dtype: standard normal, small integers, fair booleans, or words.

    Integers are below `VOCABULARY`, and below `limit` if that is smaller. The same seed gives the same values.
    """
    shape = _shape(info, batch)
    generator = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
    if info.dtype == "string":
        return generator.choice(np.array(WORDS, object), shape)
    dtype = DTYPES[info.dtype]
    if dtype.kind in "biu":
        return generator.integers(2 if dtype.kind == "b" else min(limit, VOCABULARY), size=shape).astype(dtype)
    normal = generator.standard_normal(shape)
    if dtype.kind == "c":
        return (normal + 1j * generator.standard_normal(shape)).astype(dtype)
    return normal.astype(dtype)
