"""Packers that write each float in fewer bits: as half precision, bfloat16, or an integer of 8 bits."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from transports.base import DTYPES, Array
from transports.packing.base import Dtype, Packer, Shape, check_packed


@dataclass(frozen=True)
class Narrow(Packer):
    """Converts each element to the dtype `narrow`. NaN and infinities are kept."""

    narrow: ClassVar[str]
    others: ClassVar[str]
    """Names of packers for larger values, for an error text."""

    @classmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        return dtype in ("float32", "float64")

    def pack(self, tensor: Array) -> Array:
        try:
            with np.errstate(over="raise"):
                return tensor.astype(DTYPES[self.narrow])
        except FloatingPointError:
            raise ValueError(f"a value is too large for {self.narrow}; valid: {self.others}") from None

    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        if packed.dtype.name != self.narrow or packed.shape != shape:
            raise ValueError(f"{self.narrow}{list(shape)} expected, {packed.dtype.name}{list(packed.shape)} came")
        return packed.astype(dtype)


class Float16(Narrow):
    """IEEE 754 half precision: 10 bits of fraction, values up to 65504."""

    name = "f16"
    narrow = "float16"
    others = "bf16, int8"


class BFloat16(Narrow):
    """The first 16 bits of float32, rounded: 7 bits of fraction, the range of float32."""

    name = "bf16"
    narrow = "bfloat16"
    others = "int8"


class Int8(Packer):
    """Quantises to 256 levels from the tensor's smallest to its largest value.

    Packed: the smallest value and the distance between two levels as float64, then one byte for each element. The error
    of an element is at most half of that distance, plus the rounding error of its dtype.
    """

    name = "int8"
    HEAD: ClassVar[struct.Struct] = struct.Struct("<dd")
    LEVELS: ClassVar[int] = 255
    SAFE: ClassVar[tuple[float, float]] = (1e-30, 1e30)
    """The smallest range and the largest absolute value of a tensor with which float32 can compute."""

    @classmethod
    def takes(cls, dtype: str, shape: tuple[int | None, ...]) -> bool:
        return dtype in ("float16", "bfloat16", "float32", "float64")

    def pack(self, tensor: Array) -> Array:
        values: Any = tensor.reshape(-1)
        low, high = float(values.min()), float(values.max())
        step = (high - low) / self.LEVELS
        if not np.isfinite(step):
            raise ValueError(
                "it has values that are not finite, or a range above that of float64, and int8 has no level "
                "for them; valid: bf16, or a lossless packing"
            )
        packed = np.empty(self.HEAD.size + values.size, np.uint8)
        self.HEAD.pack_into(packed.data, 0, low, step)
        if step:
            scaled = np.subtract(values, low, dtype=self._wide(low, high, tensor.dtype))
            scaled /= step
            scaled += 0.5  # the conversion to an integer truncates
            packed[self.HEAD.size :] = scaled
        else:
            packed[self.HEAD.size :] = 0
        return packed

    def unpack(self, packed: Array, dtype: Dtype, shape: Shape) -> Array:
        check_packed(packed, "uint8")
        count = math.prod(shape)
        if packed.size != self.HEAD.size + count:
            raise ValueError(f"{self.HEAD.size + count} bytes expected, {packed.size} came")
        low, step = self.HEAD.unpack_from(packed.data)
        high = low + step * self.LEVELS
        if not (np.isfinite(low) and np.isfinite(high) and step >= 0):
            raise ValueError(f"{low} and {step} are no levels")
        values = packed[self.HEAD.size :].astype(self._wide(low, high, dtype))
        values *= step
        values += low
        with np.errstate(over="ignore"):
            return values.astype(dtype, copy=False)

    def _wide(self, low: float, high: float, dtype: Dtype) -> np.dtype[Any]:
        """The dtype to compute in: float32, unless the range of the values or the tensor's dtype needs float64."""
        least, most = self.SAFE
        small = dtype.itemsize <= 4 and max(-low, high) <= most and high - low >= least
        return np.dtype(np.float32 if small else np.float64)
