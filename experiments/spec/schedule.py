"""When each request is made: in short randomised blocks, or one cell after the other.

Samples taken in long blocks drift apart with the machine, and strictly alternating ones disturb each other's caches.
Short blocks in random order do best, each at a random moment of its own part of the whole: cells of many blocks and
cells of few are spread over the same time, or the machine's drift between would look like a difference of theirs.

A block of either order begins with `lead` requests that are not counted. They bring the cell's code and data back into
the caches, fill the servers where several requests are under way at a time, and are the first that a node meets which
has taken the place of one that was killed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

VARIANTS = 4
"""Different inputs that the requests of a cell cycle through."""
BLOCK = 10
"""Timed requests in a block of the order `shuffled`, for each request that is under way at a time."""


@dataclass(frozen=True)
class Block:
    """Consecutive requests of one cell: `lead` that are not counted, then the timed ones of `runs`."""

    number: int
    cell: int
    lead: int
    runs: range

    @property
    def numbers(self) -> list[int]:
        """Of every request, in order: those that are not counted are below zero."""
        return [*range(-self.lead, 0), *self.runs]


def warm_ups(asked: int, variants: int) -> int:
    """Requests of a cell before its first block: those that were asked for, and each variant of the input once."""
    return max(asked, variants)


def lead(concurrency: int, replicas: int) -> int:
    """Requests at the begin of a block that are not counted: nodes take turns, and each of `replicas` has one."""
    return concurrency * replicas


def blocks(concurrency: Sequence[int], runs: int, order: str, seed: int, replicas: int = 1) -> Iterator[Block]:
    """Every block of an experiment, in the order of execution.

    `concurrency` has an entry for each cell, `runs` are the timed requests of each.
    """
    leads = [lead(each, replicas) for each in concurrency]
    if order == "blocked":
        yield from (Block(cell, cell, leads[cell], range(runs)) for cell in range(len(concurrency)))
        return
    chance = random.Random(seed)
    shuffled = sorted(
        ((turn + chance.random()) / len(parts), cell, part)
        for cell, parts in enumerate(_parts(runs, BLOCK * each) for each in concurrency)
        for turn, part in enumerate(parts)
    )
    yield from (Block(number, cell, leads[cell], part) for number, (_, cell, part) in enumerate(shuffled))


def _parts(runs: int, size: int) -> list[range]:
    """The runs of a cell, `size` at a time."""
    return [range(begin, min(begin + size, runs)) for begin in range(0, runs, size)]
