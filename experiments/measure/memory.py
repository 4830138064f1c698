"""Refuses sizes that do not fit into the memory of this machine."""

from __future__ import annotations

import psutil

from transports.errors import UsageError


def check(what: str, count: float, each: int, unit: str) -> None:
    """Raise `UsageError`, with the largest valid count, if `count` times `each` bytes are not free."""
    free, needed = psutil.virtual_memory().available, count * each
    if needed > free:
        most = f"{free // each} {unit}"
        raise UsageError(
            f"{what} takes up to {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free; give at most {most}"
        )
