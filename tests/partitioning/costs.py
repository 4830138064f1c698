"""Cost models with invented figures, for graphs that are made without Keras."""

from __future__ import annotations

import random
from collections.abc import Sequence

from partitioning.cost_model import CostModel
from partitioning.graph import Graph
from partitioning.part_costs import Device, Estimate, MessageCost, Path, Runs
from partitioning.traffic import Traffic


def runs_of(seconds: Sequence[float], joint: float = 0.0) -> Runs:
    """Measurements of every run of neighbouring operations: the sum of their `seconds`, plus `joint` for each run."""
    count = len(seconds)
    measured = {
        (first, last): Estimate(sum(seconds[first:last]) + joint)
        for first in range(count)
        for last in range(first + 1, count + 1)
    }
    return Runs(measured, count)


def model_of(graph: Graph, seed: int, hosts: int = 2, *, share: float = 0.0, memory: int = 0) -> CostModel:
    """Hosts `h0` (with the client), `h1`, ... of random speeds, two transports, and a random link between every two."""
    rng, count = random.Random(seed), len(graph.operations)
    names = [f"h{number}" for number in range(hosts)]
    paths = {
        (one, other): Path(rng.uniform(0, 5e-3), rng.uniform(1e5, 1e7))
        for one in names
        for other in names
        if one != other
    }
    return CostModel(
        Traffic(graph, rng.choice((1, 3))),
        runs={name: runs_of([rng.uniform(0, 5e-3) for _ in range(count)], 1e-4) for name in names},
        devices={name: Device(share=share if name == "h0" else 0.0, memory=memory) for name in names},
        transports={
            name: MessageCost(Estimate(rng.uniform(0, 1e-3)), Estimate(rng.uniform(0, 1e-7))) for name in ("a", "b")
        },
        paths=paths,
        client="h0",
        weights=[rng.randrange(1000) for _ in range(count)],
    )
