"""The costs of the parts of a request: runs of operations on a host, messages of a transport, links.

`partitioning.cost_model` adds them up. Errors are half widths of 95 % intervals; errors of independent parts are added
as squares. Seconds and bytes throughout; bits per second for bandwidths. Imports no TensorFlow.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from partitioning.errors import PartitionError

SPREAD = (-0.1, -0.05, 0.0, 0.05, 0.1)
"""Relative deviations of a stage's work over which `Device.elapsed` is averaged, since it jumps where a share is used
up."""


class CostError(PartitionError):
    """The profile lacks what the question needs; the text says what is missing."""


@dataclass(frozen=True)
class Estimate:
    """A value and the half width of its 95 % interval."""

    value: float
    error: float = 0.0

    @property
    def low(self) -> float:
        return self.value - self.error

    @property
    def high(self) -> float:
        return self.value + self.error

    def times(self, factor: float) -> Estimate:
        return Estimate(self.value * factor, self.error * abs(factor))


def total(parts: Iterable[Estimate]) -> Estimate:
    """The sum of independent estimates."""
    found = list(parts)
    return Estimate(math.fsum(part.value for part in found), math.hypot(*(part.error for part in found)))


@dataclass(frozen=True)
class Device:
    """The processor of a host, or a share of it, which executes stages."""

    share: float = 0.0
    """Share of a core that the host's process may use; 0: no limit."""
    period: float = 0.1
    """Seconds after which the share is renewed; the kernel's default unless given."""
    slots: float = 1.0
    """Stages that the host executes at a time under load."""
    memory: int = 0
    """Bytes that its process may use; 0: no limit."""

    def elapsed(self, work: float) -> float:
        """Expected seconds until `work` seconds of a core are done, if they begin at a random moment of a period."""
        if not self.share or self.share >= 1 or work <= 0:
            return work
        return sum(self._elapsed(work * (1 + deviation)) for deviation in SPREAD) / len(SPREAD)

    def _elapsed(self, work: float) -> float:
        quota, period = self.share * self.period, self.period
        full = math.ceil(work / quota) - 1
        if full < 1:
            return work
        rest = work - full * quota
        # The mean over the seconds that are left of the period, from 0 to the whole period.
        begun = (period**2 - quota**2 + 2 * quota * (quota - rest)) / (2 * period)
        return begun + (full - 1) * period + 2 * rest

    def busy(self, work: float) -> float:
        """Seconds for which a request with `work` seconds of a core keeps the device from others."""
        return work / (self.share or self.slots)


@dataclass(frozen=True)
class Path:
    """One direction of a link."""

    delay: float = 0.0
    bandwidth: float = math.inf

    def seconds(self, nbytes: float) -> float:
        return self.delay + self.wire(nbytes)

    def wire(self, nbytes: float) -> float:
        """Seconds for which the bytes occupy the link."""
        return 8 * nbytes / self.bandwidth


@dataclass(frozen=True)
class MessageCost:
    """The cost of a message over a transport, without a link."""

    call: Estimate
    """Seconds of an empty message and its answer."""
    byte: Estimate
    """Seconds for each byte of a message, one way."""
    density: Mapping[int, float] = field(default_factory=dict)
    """Position -> bytes on the wire for each byte that crosses there; 1 for missing positions."""
    misfit: float = 0.0
    """Median relative distance of predicted seconds from the intervals of the measured messages."""

    def seconds(self, nbytes: float) -> Estimate:
        """Seconds of a message of `nbytes` and its answer."""
        return total((self.call, self.byte.times(nbytes)))


@dataclass(frozen=True)
class Runs:
    """Seconds of fused runs of operations on one host, at full speed: (first, last) is the run first..last-1.

    For each position, the run before it and the run from it to the end are measured; other runs are derived from these.
    """

    measured: Mapping[tuple[int, int], Estimate]
    operations: int

    @cached_property
    def positions(self) -> tuple[int, ...]:
        """The positions at which the model may be cut, ascending."""
        ends = {first for first, _ in self.measured} - {0}
        return tuple(sorted(at for at in ends if {(0, at), (at, self.operations)} <= self.measured.keys()))

    @cached_property
    def joint(self) -> Estimate:
        """Seconds by which two runs take longer than the whole, on average over the positions: the cost of a further
        run."""
        whole = self.measured[0, self.operations]
        extra = [
            self.measured[0, at].value + self.measured[at, self.operations].value - whole.value for at in self.positions
        ]
        if not extra:
            return Estimate(0.0)
        mean = math.fsum(extra) / len(extra)
        spread = math.sqrt(math.fsum((value - mean) ** 2 for value in extra) / len(extra))
        return Estimate(mean, 2 * spread / math.sqrt(len(extra)))

    @cached_property
    def _known(self) -> dict[tuple[int, int], Estimate]:
        return dict(self.measured)

    def times(self, factor: float) -> Runs:
        """The runs on a host that takes `factor` times as long."""
        return Runs({run: seconds.times(factor) for run, seconds in self.measured.items()}, self.operations)

    def seconds(self, first: int, last: int) -> Estimate:
        """The measured seconds of the run first..last-1, or seconds derived from other runs. Raises `CostError`."""
        if (found := self._known.get((first, last))) is None:
            found = self._known[first, last] = self._derived(first, last)
        return found

    def _derived(self, first: int, last: int) -> Estimate:
        if missing := {first, last} - {0, self.operations, *self.positions}:
            raise CostError(f"the profile has no cut before operation {min(missing)}")
        before, until = self.measured[0, first], self.measured[0, last]
        parts = (until, before.times(-1), self.joint)
        return Estimate(max(0.0, total(parts).value), total(parts).error)
