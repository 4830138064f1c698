"""A matrix of loads and replicas, simulated on one fitted cell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from experiments.simulate.engine import Clients, simulate
from experiments.simulate.fit import Fit
from experiments.simulate.measured import Run
from experiments.simulate.outcome import Outcome, outcome_of
from experiments.simulate.topology import Layout, system_of
from experiments.spec.load import Load

KIND = "simulated"
LEAD = 10
"""One in `LEAD` requests does not count, those at the begin, when the system is empty."""
PATIENCE = 2.0
"""The bound of the 99th percentile, as a multiple of the 99th percentile of one request at a time."""


@dataclass(frozen=True)
class Point:
    """One load on one number of replicas. Units as in the columns of simulation.csv (`report`)."""

    cell: str
    load: str
    """Empty: a closed loop."""
    concurrency: int
    """Clients of a closed loop; 0 with a load."""
    replicas: int
    outcome: Outcome

    def row(self) -> Mapping[str, Any]:
        found = self.outcome
        used = "; ".join(f"{name}={share:.4f}" for name, share in found.used.items())
        return (
            {"kind": KIND, **{name: getattr(self, name) for name in ("cell", "load", "concurrency", "replicas")}}
            | {name: value for name, value in asdict(found).items() if name != "used"}
            | {"overloaded": int(found.overloaded), "bottleneck": found.bottleneck}
            | {"bottleneck_used": found.most_used, "used": used}
        )


@dataclass(frozen=True)
class Study:
    """The run, its fit and the settings of a simulation."""

    run: Run
    fitted: Fit
    layout: Layout
    requests: int
    seed: int

    def points(self, loads: Sequence[Clients], replicas: Sequence[int]) -> Iterator[Point]:
        """A point for each load and number of replicas, in this order."""
        for load in loads:
            for copies in replicas:
                yield self.point(load, copies)

    def point(self, load: Clients, replicas: int) -> Point:
        system = system_of(self.run, self.fitted, replace(self.layout, replicas=replicas))
        trace = simulate(system, load, self.requests, self.seed, self.requests // LEAD)
        text, clients = (str(load), 0) if isinstance(load, Load) else ("", load)
        return Point(self.run.cell.name, text, clients, replicas, outcome_of(trace, system.timeout))

    def bound(self) -> float:
        """Seconds: `PATIENCE` times the 99th percentile of one request at a time."""
        return PATIENCE * self.point(1, 1).outcome.p99
