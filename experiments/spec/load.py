"""Open-loop load: requests begin at intended moments, whether or not earlier ones are answered.

In a closed loop (`--concurrency`) a client waits for an answer before it sends the next request, so a server that stops
for a second delays one request and hides all requests that would have arrived meanwhile (*coordinated omission*). In
an open loop they are sent, and each one's latency counts from its intended start. Sources: G. Tene, "How NOT to Measure
Latency", 2015, and his load generator wrk2.
"""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from experiments.spec.experiment import Cell, Experiment
from experiments.spec.schedule import Block, largest
from transports.errors import UsageError
from transports.limits import CONNECTIONS

LEAST, MOST = 0.001, 100_000
"""The range of rates, in requests per second."""
GAPS: Mapping[str, Callable[[random.Random, float], float]] = {
    "poisson": lambda rng, rate: rng.expovariate(rate),
    "constant": lambda rng, rate: 1 / rate,
}
"""Kind of load -> the seconds until the next request, at a rate per second."""
AUTO: Mapping[str, str] = {f"{kind}:auto": kind for kind in GAPS}
"""Loads whose rates a calibration finds (`experiments.spec.sweep`) -> their kind."""
VALID = (
    f"valid: {' or '.join(f'{kind}:RATE/s' for kind in GAPS)}, with a RATE of {LEAST:g} to {MOST}, or "
    f"{' or '.join(AUTO)}, which find the rates"
)
IN_FLIGHT = CONNECTIONS // 4
"""Most requests that a client keeps in flight; less than `CONNECTIONS`, since a server also holds the connections of
other clients and servers."""


@dataclass(frozen=True)
class Load:
    """Requests that arrive at random (`poisson`) or at equal distances (`constant`), `rate` per second on average."""

    kind: str
    rate: float

    @classmethod
    def parse(cls, text: str) -> Self:
        """`"poisson:20/s"`. Raises `UsageError`."""
        found = re.fullmatch(r"(\w+):(\d+(?:\.\d+)?)/s", text, re.ASCII)
        if not found or found[1] not in GAPS:
            raise UsageError(f"--load {text!r}: {_fault(text)}; {VALID}, for example poisson:20/s")
        if not LEAST <= (rate := float(found[2])) <= MOST:
            raise UsageError(f"--load {text!r}: its rate is too {'small' if rate < LEAST else 'large'}; {VALID}")
        return cls(found[1], rate)

    def __str__(self) -> str:
        return f"{self.kind}:{self.rate:.12g}/s"


def _fault(text: str) -> str:
    """Why `text` is not a load."""
    if text in AUTO:
        return "only a run finds the rates; give one here"
    if text.removesuffix("/s") in AUTO:
        return "auto has no unit"
    return "its rate has no unit" if re.fullmatch(rf"({'|'.join(GAPS)}):[\d.]+", text, re.ASCII) else "no load"


def canonical_load(text: str) -> str:
    """The load in the form that names of cells contain; empty: a closed loop. Raises `UsageError`."""
    return text if text in AUTO else str(Load.parse(text)) if text.strip() else ""


def lead_in(text: str) -> float:
    """The mean seconds from the begin of a block under this load to its first intended start; 0 in a closed loop.

    Without this lead-in, N requests would seem to arrive in the time of N - 1 gaps.
    """
    return 1 / Load.parse(text).rate if text else 0.0


def rates(cells: Sequence[Cell]) -> list[float]:
    """The rates of the cells under a load, except those that a calibration has yet to find."""
    return [Load.parse(cell.load).rate for cell in cells if cell.load and cell.load not in AUTO]


def patient_limit(experiment: Experiment) -> float:
    """The time limit of requests, in seconds, but at least the default one."""
    return max(experiment.timeout, Experiment.timeout)


def untimed_limit(cell: Cell, experiment: Experiment) -> float:
    """Seconds that an untimed request of `cell` may take. The first one takes longer than the later ones, so the time
    limit of a load, which a request may miss, does not hold for it."""
    return patient_limit(experiment) if cell.load else experiment.timeout


def in_flight(cell: Cell, experiment: Experiment) -> int:
    """The largest number of requests of `cell` in flight at a time: its `concurrency` or, under a load, the requests of
    a block, but at most `IN_FLIGHT`.

    While the rate of any cell is unknown, it is `IN_FLIGHT`.
    """
    if not cell.load:
        return cell.concurrency
    if any(each.load in AUTO for each in experiment.cells):
        return IN_FLIGHT
    block = largest([each.concurrency for each in experiment.cells], rates(experiment.cells))
    return min(IN_FLIGHT, experiment.runs if experiment.turns == "blocked" else block)


def arrivals(cell: Cell, block: Block, seed: int) -> tuple[float, ...]:
    """The intended start of each timed request of a block, in seconds after its begin, ascending.

    A pure function. Cells with the same load get the same starts in each round, since their ratios are paired by round.
    """
    load = Load.parse(cell.load)
    rng = random.Random(f"{load} {block.round} {seed}")
    return tuple(itertools.accumulate(GAPS[load.kind](rng, load.rate) for _ in block.runs))
