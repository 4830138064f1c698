"""Images as tensors: decoded, turned upright, resized, and seen in different views."""

from __future__ import annotations

import contextlib
import math
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from partitioning.errors import PartitionError
from partitioning.graph import TensorInfo
from partitioning.input_options import SCALES
from partitioning.memory import free_memory

MODES: Mapping[int, str] = {1: "L", 3: "RGB", 4: "RGBA"}
"""Channels of an image -> Pillow's mode."""
DTYPES = frozenset(
    {"uint8", "uint16", "uint32", "uint64", "int16", "int32", "int64", "float16", "float32", "float64", "bfloat16"}
)
"""The dtypes of image inputs: they hold 0..255."""
LARGEST = 89_478_485
"""Most pixels that are decoded without a check of the free memory: a quarter of 2**30 bytes, in RGB. Pillow's limit."""
PIXEL = 4
"""Bytes of a decoded pixel, at most."""
FACTOR = 4
"""Decoding an image may take at most the bytes of this many times `LARGEST` pixels."""
REDUCED = 8
"""The divisor of width and height with which a JPEG above `LARGEST` is decoded."""
BOMBS = (Image.DecompressionBombWarning, Image.DecompressionBombError)
HEIC = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})
"""Brands in the first box of a HEIC file."""

Pixels = NDArray[np.float32]


def is_image(info: TensorInfo) -> bool:
    """Whether an input takes images: (batch, height, width, 1, 3 or 4 channels), where all but the last may be open."""
    return len(info.shape) == 4 and info.shape[3] in MODES and info.dtype in DTYPES


@dataclass(frozen=True)
class Images:
    """The image at a path, or the images of a folder. Each image of a folder is a sample."""

    paths: tuple[Path, ...]

    @classmethod
    def at(cls, path: Path) -> Self:
        """Raises `PartitionError` for a path without image files. The first image is decoded to check it."""
        paths = tuple(sorted(item for item in path.iterdir() if _is_visible_file(item))) if path.is_dir() else (path,)
        if not paths:
            raise PartitionError(f"--input: the folder {str(path)!r} has no image; give one with JPEG or PNG files")
        decoded(paths[0])
        return cls(paths)

    def batch(self, first: int, size: tuple[int, int], batch: int, channels: int = 3) -> Pixels:
        """Float32 values in 0..255 of shape (batch, height, width, channels), where `size` is (height, width).

        Item k is sample number first + k, cyclically; with a single image, it is the image's `view` with that number.
        """
        if len(self.paths) == 1:
            image = pixels(self.paths[0], size, channels)
            return np.stack([view(image, number) for number in range(first, first + batch)])
        paths = [self.paths[number % len(self.paths)] for number in range(first, first + batch)]
        return np.stack([pixels(path, size, channels) for path in paths])


def pixels(path: Path, size: tuple[int, int], channels: int = 3) -> Pixels:
    """The image at `path` as float32 in 0..255, of shape (height, width, channels): gray, RGB or RGBA.

    Stretched to `size`, (height, width), with Pillow's bicubic filter. Raises `PartitionError` as `decoded` does.
    """
    image = decoded(path).convert(MODES[channels]).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(image, dtype=np.float32).reshape(*size, channels)


def view(image: Pixels, number: int) -> Pixels:
    """View `number` of an image: rolled to the right by (number // 2) steps, and mirrored if the number is odd.

    A step is about a seventh of the width and coprime to it, so that the first 2 * width views all differ (from three
    columns on); after each full turn the image is also rolled down by one row.
    """
    height, width = image.shape[:2]
    step = next(step for step in range(max(1, width // 7), width + 1) if math.gcd(step, width) == 1)
    turns, across = divmod(number // 2, width)
    rolled = np.roll(image, (turns % height, across * step % width), axis=(0, 1))
    return rolled[:, ::-1] if number % 2 else rolled


def scaled(images: Pixels, scale: str) -> Pixels:
    """Images in 0..255 in one of `SCALES`; the number of channels must fit."""
    mean, deviation = (np.array(values, np.float32) for values in SCALES[scale])
    return (images - mean) / deviation


def decoded(path: Path) -> Image.Image:
    """The first frame of the image, upright by its EXIF tag (if that can be read), with at most 8 bits a channel.

    16-bit images are scaled to 8 bits. A JPEG of more than `LARGEST` pixels is decoded at an eighth of its width and
    height, other images as a whole if the memory suffices. Raises `PartitionError` for a file that is missing,
    unreadable, truncated, no image, or too large.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about broken EXIF data
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        image = _loaded(path)
        # The pixels are decoded, so only the EXIF data can fail; it may raise any exception.
        with contextlib.suppress(Exception):
            image = ImageOps.exif_transpose(image)
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image)
    if image.mode.startswith("F") or values.min() < 0 or values.max() >= 2**16:
        raise PartitionError(f"--input: {str(path)!r} has more than 16 bits a channel; give an image with 8 or 16")
    return Image.fromarray(np.round(values / np.float32(257)).astype(np.uint8))


def _loaded(path: Path) -> Image.Image:
    if not path.is_file():
        raise PartitionError(f"--input: no file {str(path)!r}; give an image file, such as a JPEG or a PNG")
    try:
        with _limited(None):
            image = Image.open(path)
        with image, _limited(_admitted(image, path)):
            image.load()
            return image
    except BOMBS as error:
        raise _too_large(path) from error
    except UnidentifiedImageError as error:
        reason = "HEIC: convert it to JPEG" if _is_heic(path) else "no image; give a JPEG or a PNG"
        raise PartitionError(f"--input: {str(path)!r} is {reason}") from error
    except (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error) as error:
        raise PartitionError(f"--input: {str(path)!r} cannot be decoded: {error}; give a whole image") from error


def _admitted(image: Image.Image, path: Path) -> int:
    """The number of pixels that may be decoded. A large JPEG will be decoded at a reduced size.

    Raises `PartitionError` if decoding would take too much memory.
    """
    whole = image.width * image.height
    if whole > LARGEST:
        image.draft(None, (image.width // REDUCED, image.height // REDUCED))  # no effect unless it is a JPEG
        # A progressive JPEG keeps the coefficients of all pixels while it is decoded, about three bytes for each.
        held = 3 * whole if image.info.get("progressive") else PIXEL * image.width * image.height
        # Turning, converting and resizing it takes as much again.
        if held > min(FACTOR * PIXEL * LARGEST, free_memory() // 2):
            raise _too_large(path)
    return max(whole, LARGEST)


def _too_large(path: Path) -> PartitionError:
    return PartitionError(f"--input: {str(path)!r} is too large for the memory; give a smaller image")


@contextlib.contextmanager
def _limited(pixels: int | None) -> Iterator[None]:
    """Let Pillow decode images of up to `pixels` pixels during the block; None: of any size."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, pixels
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _is_heic(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in HEIC


def _is_visible_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".")
