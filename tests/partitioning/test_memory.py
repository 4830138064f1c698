"""`trim` returns freed memory to the system; the C library would keep it."""

from __future__ import annotations

import ctypes

import psutil

from partitioning.memory import trim

SIZE, COUNT = 100_000, 2_000


def test_freed_memory_is_returned() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = (
        ctypes.c_void_p,
        [ctypes.c_size_t],
        [ctypes.c_void_p],
    )
    process = psutil.Process()
    blocks = [libc.malloc(SIZE) for _ in range(COUNT)]
    for block in blocks:
        ctypes.memset(block, 1, SIZE)
    for block in blocks[:-1]:  # the last one is at the top of the heap, where memory is returned by itself
        libc.free(block)
    kept = process.memory_info().rss
    trim()
    left = process.memory_info().rss
    libc.free(blocks[-1])
    assert kept - left > SIZE * COUNT / 2
