"""Shapes of arrays without elements, which JSON cannot hold: a list ends at the first extent of 0."""

from __future__ import annotations

from collections.abc import Sequence

from transports.base import Array


def completed(array: Array, shape: Sequence[int | None]) -> Array:
    """`array` with the extents of `shape` behind its own, if it has no elements; an open extent becomes 0.

    So `[[], []]` is of shape (2, 0, 3) where a signature has (None, None, 3). TensorFlow Serving's own reader of
    JSON (`util/json_tensor.cc`) completes no shape.
    """
    missing = shape[array.ndim :] if not array.size else ()
    return array.reshape(*array.shape, *(extent or 0 for extent in missing)) if missing else array
