"""Seeded values for inputs of any dtype."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partitioning.graph import TensorInfo
from partitioning.inputs.shapes import dtype_of, shape_of

VOCABULARY = 10
"""Seeded integers are below this, since they are likely to be indices into a small vocabulary."""
WORDS = ("the cat sat", "on the mat", "a dog", "")
"""Seeded strings."""


def seeded(info: TensorInfo, batch: int, seed: int, limit: int | None = None) -> NDArray[Any]:
    """Values of the tensor's shape and dtype: standard normal, small integers, fair booleans, or words.

    Integers are below `VOCABULARY`, and below `limit` if that is smaller. With a limit, values of any numeric dtype are
    such whole numbers. The same seed gives the same values.
    """
    shape = shape_of(info, batch)
    generator = np.random.default_rng([seed, zlib.crc32(info.name.encode())])
    dtype = dtype_of(info)
    if dtype.kind == "O":
        return generator.choice(np.array(WORDS, object), shape)
    if dtype.kind == "b":
        return generator.integers(2, size=shape).astype(dtype)
    if dtype.kind in "iu" or limit is not None:
        return generator.integers(min(limit or VOCABULARY, VOCABULARY), size=shape).astype(dtype)
    normal = generator.standard_normal(shape)
    if dtype.kind == "c":
        return (normal + 1j * generator.standard_normal(shape)).astype(dtype)
    return normal.astype(dtype)
