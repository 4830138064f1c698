"""JPEG (ITU-T T.81) for images that a client sends to a model, as a camera or a phone would send them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from transports.base import Array
from transports.packing.base import Dtype, Packer, Shape, check_packed


@dataclass(frozen=True)
class Jpeg(Packer):
    """Packs tensors [images, height, width, 1 or 3] with pixels from 0 to 255, which it rounds to whole numbers.

    Packed: the size of each JPEG image in bytes as uint32, then the images.
    """

    quality: int = 90

    name = "jpeg"
    libraries: ClassVar[Mapping[str, str]] = {"PIL": "'pillow>=11'"}
    answers = False
    COLOURS: ClassVar[dict[int, str]] = {1: "L", 3: "RGB"}
    """Extent of the last axis -> image mode of Pillow."""
    LARGEST: ClassVar[int] = 255
    LONGEST: ClassVar[int] = 65_500
    """Most pixels in a row or column that Pillow can write."""

    @classmethod
    def parse(cls, argument: str | None) -> Self:
        text = argument or ""
        if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 95:
            raise ValueError("give the quality, a whole number: jpeg:90; valid: 1 to 95")
        return cls(int(text))

    @property
    def wire(self) -> str:
        return f"{self.name}:{self.quality}"

    @classmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        image = len(shape) == 4 and shape[3] in cls.COLOURS
        sides = all(extent is None or 1 <= extent <= cls.LONGEST for extent in shape[1:3])
        return dtype in ("uint8", "float16", "bfloat16", "float32", "float64") and image and sides

    def check(self, tensor: Any) -> None:
        """Raise `ValueError` for a tensor whose values are not pixels."""
        if not (tensor.min() >= 0 and tensor.max() <= self.LARGEST):  # with NaN, neither comparison holds
            raise ValueError(
                f"JPEG holds pixels from 0 to {self.LARGEST}, and its values go from {tensor.min()} to {tensor.max()}"
            )

    def pack(self, tensor: Array) -> Array:
        from PIL import Image

        self.check(tensor)
        pixels = tensor if tensor.dtype == np.uint8 else np.rint(tensor.astype(np.float32)).astype(np.uint8)
        images = []
        for image in pixels.squeeze(3) if pixels.shape[3] == 1 else pixels:
            file = io.BytesIO()
            Image.fromarray(image).save(file, "JPEG", quality=self.quality)
            images.append(file.getvalue())
        sizes = np.array([len(image) for image in images], "<u4").tobytes()
        return np.frombuffer(b"".join((sizes, *images)), np.uint8)

    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        from PIL import Image

        check_packed(packed, "uint8")
        count, height, width, colours = shape
        data, place = packed.tobytes(), 4 * count
        sizes = np.frombuffer(data[:place], "<u4").tolist()
        if len(sizes) != count or place + sum(sizes) != len(data):
            raise ValueError(f"{count} images expected, and the bytes hold others")
        pixels = np.empty(shape, np.uint8)
        for number, size in enumerate(sizes):
            with Image.open(io.BytesIO(data[place : place + size]), formats=("JPEG",)) as image:
                # Checked before decoding: `pack` writes one scan, but a progressive image may have thousands.
                if (image.size, image.mode) != ((width, height), self.COLOURS[colours]) or "progressive" in image.info:
                    raise ValueError(f"image {number} is {image.mode} of {image.size}")
                pixels[number] = np.asarray(image).reshape(height, width, colours)
            place += size
        return pixels.astype(dtype, copy=False)
