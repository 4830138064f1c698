"""The check that memory suffices, before it is taken."""

from __future__ import annotations

import psutil

from partitioning.errors import PartitionError


def check_memory(what: str, count: float, each: int, unit: str) -> None:
    """Raise `PartitionError`, with the largest valid count, if `count` times `each` bytes are not free."""
    free, needed = psutil.virtual_memory().available, count * each
    if needed > free:
        most = f"{free // each} {unit}"
        raise PartitionError(
            f"{what} takes up to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free; give at most {most}"
        )
