"""The shapes and dtypes of a request's inputs: axis 0 is the batch; other open axes get an extent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  NumPy then knows bfloat16 and the 8-bit floats by name
import numpy as np

from partitioning.errors import PartitionError, suggest
from partitioning.graph import TensorInfo
from partitioning.inputs.images import is_image

OPEN = 16
"""Extent of an open axis other than the batch, for example of a sequence."""
EXTENT = 224
"""Pixels of an open axis of an image."""


def shape_of(info: TensorInfo, batch: int) -> tuple[int, ...]:
    """The shape at this batch, with `EXTENT` for open axes of an image, and `OPEN` for open axes of other inputs."""
    free = EXTENT if is_image(info) else OPEN
    return tuple((free if axis else batch) if extent is None else extent for axis, extent in enumerate(info.shape))


def dtype_of(info: TensorInfo) -> np.dtype[Any]:
    """NumPy's dtype of an input; strings are objects."""
    return np.dtype(object if info.dtype == "string" else info.dtype)


def fixed_batch(infos: Iterable[TensorInfo]) -> int | None:
    """The batch that the model's inputs prescribe; `None` if every batch is valid.

    Raises `PartitionError` for an input without a batch axis, and for inputs with different fixed batches.
    """
    fixed: dict[int, str] = {}
    for info in infos:
        if not info.shape:
            raise PartitionError(f"input {info.name!r} is a scalar; every input needs axis 0 for the batch")
        if info.shape[0] is not None:
            fixed.setdefault(info.shape[0], info.name)
    if len(fixed) > 1:
        batches = ", ".join(f"{batch} of {name!r}" for batch, name in fixed.items())
        raise PartitionError(f"the model's inputs have different fixed batches: {batches}; no batch is valid")
    return next(iter(fixed), None)


def check_batch(infos: Iterable[TensorInfo], batch: int) -> None:
    """Raise `PartitionError` unless the model takes this batch."""
    if (fixed := fixed_batch(infos)) not in (None, batch):
        raise PartitionError(f"--batch {batch}: the model's input has the fixed batch {fixed}; valid: {fixed}")


def with_extents(infos: Sequence[TensorInfo], extents: Iterable[str]) -> list[TensorInfo]:
    """The inputs, with their open axes fixed as `extents` say: `NAME=N`, or `NAME:AXIS=N`.

    Raises `PartitionError` for a text of another form, for an unknown input, and for an axis that is not open.
    """
    found = {info.name: info for info in infos}
    for text in extents:
        name, axis, extent = _parsed(text, found)
        shape = found[name].shape
        free = [place for place, size in enumerate(shape) if place and size is None]
        if axis is None and len(free) > 1:
            valid = ", ".join(f"{name}:{place}=N" for place in free)
            raise PartitionError(f"--extent {text}: input {name!r} has several open axes; valid: {valid}")
        place = free[0] if axis is None and free else axis
        if place not in free:
            valid = f"valid: {', '.join(map(str, free))}" if free else "leave it out"
            what = "no open axis but the batch" if axis is None else f"no open axis {axis} (--batch sets axis 0)"
            raise PartitionError(f"--extent {text}: input {name!r} has {what}; {valid}")
        filled = tuple(extent if index == place else size for index, size in enumerate(shape))
        found[name] = TensorInfo(name, filled, found[name].dtype)
    return list(found.values())


def _parsed(text: str, known: Iterable[str]) -> tuple[str, int | None, int]:
    """(name, axis if given, extent). A name may have `:` or `=` in it."""
    where, _, number = text.rpartition("=")
    head, _, tail = where.rpartition(":")
    name, axis = (where, None) if where in known or not tail.isdecimal() else (head, int(tail))
    if not name or not number.isdecimal() or int(number) < 1:
        raise PartitionError(f"--extent {text}: give NAME=N or NAME:AXIS=N, where N is 1 or more")
    if name not in known:
        raise PartitionError(f"--extent {text}: no input {name!r}{suggest(name, known)}; valid: {', '.join(known)}")
    return name, axis, int(number)


def described(info: TensorInfo) -> str:
    """The input in an error text: `x float32[?, 6]`."""
    extents = ", ".join("?" if extent is None else str(extent) for extent in info.shape)
    return f"{info.name} {info.dtype}[{extents}]"
