"""zfp: blocks of 4^d neighbouring values, transformed and cut off at a bit plane (P. Lindstrom, "Fixed-Rate Compressed
Floating-Point Arrays", IEEE TVCG 20(12), 2014), in the mode that bounds the error."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from transports.base import Array
from transports.packing.base import Dtype, Packer, Shape, check_packed


@dataclass(frozen=True)
class Zfp(Packer):
    """Packs with zfp. Packed: the absolute tolerance as float64, then zfp's stream without a header."""

    tolerance: float = 1e-3
    """Largest error of an element, as a share of the tensor's largest absolute value."""

    name = "zfp"
    libraries: ClassVar[Mapping[str, str]] = {"zfpy": "'zfpy>=1'"}
    HEAD: ClassVar[struct.Struct] = struct.Struct("<d")
    AXES: ClassVar[int] = 4
    """Most axes of an array that zfp supports."""
    BLOCK: ClassVar[int] = 4

    @classmethod
    def parse(cls, argument: str | None) -> Self:
        wrong = "give the largest error, as a share of a tensor's largest value: zfp:0.001; valid: 1e-9 to 1"
        try:
            tolerance = float(argument or "")
        except ValueError:
            raise ValueError(wrong) from None
        if not 1e-9 <= tolerance <= 1:
            raise ValueError(wrong)
        return cls(tolerance)

    @property
    def wire(self) -> str:
        return f"{self.name}:{self.tolerance!r}"

    @classmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        return dtype in ("float32", "float64")

    def pack(self, tensor: Array) -> Array:
        import zfpy

        values: Any = tensor.reshape(_grid(tensor.shape, self.AXES))
        largest = max(-float(values.min()), float(values.max()))
        if not math.isfinite(largest):  # also catches NaN
            raise ValueError(
                "it has values that are not finite, which zfp cannot hold; valid: bf16, or a lossless packing"
            )
        tolerance = self.tolerance * largest
        if 0 < tolerance < np.finfo(values.dtype).smallest_normal:
            raise ValueError(f"its largest value, {largest}, is too small for zfp; valid: bf16, or a lossless packing")
        stream = zfpy.compress_numpy(values, tolerance=tolerance, write_header=False)
        return np.frombuffer(self.HEAD.pack(tolerance) + stream, np.uint8)

    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        import zfpy

        check_packed(packed, "uint8")
        (tolerance,) = self.HEAD.unpack_from(packed.data)
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise ValueError(f"{tolerance} is no tolerance")
        grid = _grid(shape, self.AXES)
        # zfp reads beyond the end of a truncated stream, so there must be memory behind it.
        stream = np.zeros(self._most(grid, dtype.itemsize) + packed.size, np.uint8)
        stream[: packed.size - self.HEAD.size] = packed[self.HEAD.size :]
        return zfpy._decompress(stream, zfpy.dtype_to_ztype(dtype), grid, tolerance=tolerance)  # type: ignore[no-any-return]

    def _most(self, grid: Shape, itemsize: int) -> int:
        """Bytes of the longest stream: an exponent for each block, and at most two bits for a bit plane of a value."""
        blocks = math.prod(-(-extent // self.BLOCK) for extent in grid)
        values = math.prod(self.BLOCK for _ in grid)
        return blocks * (values * itemsize * 2 + 16)


def _grid(shape: Shape, most: int) -> Shape:
    """`shape` with at most `most` axes, if possible none shorter than a block, since zfp pads incomplete blocks."""
    grid: list[int] = []
    for extent in shape:
        if grid and min(extent, grid[-1]) < Zfp.BLOCK:
            grid[-1] *= extent
        else:
            grid.append(extent)
    first = max(1, len(grid) - most + 1)
    return (math.prod(grid[:first]), *grid[first:])
