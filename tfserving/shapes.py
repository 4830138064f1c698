"""Shapes of arrays without elements, which JSON cannot represent: nested lists end at the first extent of 0."""

from __future__ import annotations

from collections.abc import Sequence

from transports.base import Array


def completed(array: Array, shape: Sequence[int | None]) -> Array:
    """`array`; if it has no elements, the missing last extents are taken from `shape`. An open extent becomes 0.

    So `[[], []]` has the shape (2, 0, 3) if the signature has (None, None, 3). TensorFlow Serving's own reader of JSON
    (`util/json_tensor.cc`) does not complete shapes.
    """
    missing = shape[array.ndim :] if not array.size else ()
    return array.reshape(*array.shape, *(extent or 0 for extent in missing)) if missing else array
