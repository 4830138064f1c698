"""Measures free memory, checks that it suffices before it is taken, and returns freed memory to the system."""

from __future__ import annotations

import contextlib
import ctypes

import psutil

from partitioning import control_groups
from partitioning.errors import PartitionError


def free_memory() -> int:
    """Bytes that this process may still take: free in the machine, or in its control group if that has fewer."""
    available, granted = psutil.virtual_memory().available, control_groups.read().free
    return available if granted is None else min(available, granted)


def check_memory(what: str, count: float, each: int, unit: str) -> None:
    """Raise `PartitionError`, with the largest valid count, if `count` times `each` bytes are not free."""
    free = free_memory()
    require(what, count * each, free, f"give at most {free // max(1, each)} {unit}")


def require(what: str, needed: float, free: int, remedy: str) -> None:
    """Raise `PartitionError` if `needed` bytes are more than `free`."""
    if needed > free:
        raise PartitionError(f"{what} may take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} are free; {remedy}")


def trim() -> None:
    """Return freed memory to the system, as far as the C library can. Done after loading, never between requests."""
    with contextlib.suppress(AttributeError, OSError):  # only glibc has it
        ctypes.CDLL(None).malloc_trim(0)
