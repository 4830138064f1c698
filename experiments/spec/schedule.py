"""The order of the requests: rounds in which each cell has one short block, or one cell after the other.

Samples of long blocks drift apart with the machine, and strictly alternating requests disturb each other's caches. So
each cell has one short block per round, in an order that is shuffled for each round: drift affects all cells of a round
alike, and ratios can be paired by round.

A block starts with `lead` requests that do not count. They bring the cell's code and data back into the caches, fill
the servers if several requests are in flight, and reach a node that has replaced a killed one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from partitioning.input_options import VARIANTS

BLOCK, OVERLAPPING = 5, 10
"""Most timed requests in a block of the order `shuffled`: `BLOCK` with one request in flight; with several,
`OVERLAPPING` for each request in flight."""
LOADED, LASTING = 10, 1.0
"""Least timed requests in such a block under an open-loop load, and the seconds that it lasts, so that queues build
up."""


@dataclass(frozen=True)
class Block:
    """Consecutive requests of one cell: `lead` uncounted requests, then the timed requests with the numbers `runs`."""

    number: int
    round: int
    cell: int
    lead: int
    runs: range

    @property
    def numbers(self) -> list[int]:
        """The number of each request, in order; uncounted requests have numbers below zero."""
        return [*range(-self.lead, 0), *self.runs]


@dataclass(frozen=True)
class Kill:
    """The number of the node that an experiment kills, and the timed request of each cell before which it does so."""

    node: int
    request: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """`"node-1@20"`, or `"1@20"`. Raises `ValueError`."""
        found = re.fullmatch(r"(?:node-)?(\d{1,9})@(\d{1,9})", text)
        if not found:
            raise ValueError(f"{text!r} is not of the form NODE@REQUEST, for example node-1@20")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """The name of the node's process."""
        return f"node-{self.node}"


def warm_ups(least: int) -> int:
    """Requests of a cell before its first block: at least `least`, and one for each variant of a single image."""
    return max(least, VARIANTS)


def lead(concurrency: int, replicas: int) -> int:
    """Uncounted requests at the start of a block: one for each request in flight, at each replica."""
    return concurrency * replicas


def longest(concurrency: int) -> int:
    """Most timed requests in a block of a cell with that concurrency. The last requests of a block overlap less, so
    blocks with overlapping requests are longer."""
    return BLOCK if concurrency == 1 else OVERLAPPING * concurrency


def longest_at(rate: float) -> int:
    """Most timed requests in a block of a cell with an open-loop load of `rate` requests per second."""
    return max(LOADED, round(LASTING * rate))


def largest(concurrency: Sequence[int], rates: Sequence[float]) -> int:
    """Most timed requests in a block of an experiment whose cells have these concurrencies and open-loop rates."""
    return max([longest(max(concurrency)), *map(longest_at, rates)])


def blocks(
    concurrency: Sequence[int], runs: int, order: str, seed: int, replicas: int = 1, rates: Sequence[float] = ()
) -> Iterator[Block]:
    """Every block of an experiment, in the order of execution.

    `concurrency` has an entry for each cell; `runs` is the number of timed requests of each cell. They are divided
    evenly among the rounds. The order `blocked` is a single round that is not shuffled. `rates`: the rates of the
    open-loop loads, in requests per second.
    """
    leads = [lead(each, replicas) for each in concurrency]
    rounds = 1 if order == "blocked" else -(-runs // largest(concurrency, rates))
    rng = random.Random(seed)
    cells = list(range(len(concurrency)))
    for number in range(rounds):
        if order != "blocked":
            rng.shuffle(cells)
        part = range(runs * number // rounds, runs * (number + 1) // rounds)
        for place, cell in enumerate(cells):
            yield Block(number * len(cells) + place, number, cell, leads[cell], part)
