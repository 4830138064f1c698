"""When each request is made: in short randomised blocks, or one cell after the other.

Samples taken in long blocks drift apart with the machine, and strictly alternating ones disturb each other's caches.
Short blocks in random order do best: each begins with one request that is not counted, which brings the cell's code
and data back into the caches.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["BLOCK", "Block", "blocks"]

BLOCK = 10
"""Timed requests in a block of the order `shuffled`."""


@dataclass(frozen=True)
class Block:
    """Consecutive requests of one cell: `lead` that are not counted, then the timed ones of `runs`."""

    number: int
    cell: int
    lead: int
    runs: range


def blocks(cells: int, runs: int, order: str, seed: int) -> Iterator[Block]:
    """Every block of an experiment with `cells` cells of `runs` timed requests each, in the order of execution."""
    if order == "blocked":
        pairs = [(cell, range(runs)) for cell in range(cells)]
    else:
        chance = random.Random(seed)
        pairs = []
        for start in range(0, runs, BLOCK):
            rank = list(range(cells))
            chance.shuffle(rank)
            pairs += [(cell, range(start, min(start + BLOCK, runs))) for cell in rank]
    lead = 0 if order == "blocked" else 1
    yield from (Block(number, cell, lead, runs_) for number, (cell, runs_) in enumerate(pairs))
