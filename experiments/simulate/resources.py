"""The resources for which requests compete: the cores of a host, slots with a queue, and one direction of a link."""

from __future__ import annotations

import functools
import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from cluster.links.link import Link
from cluster.links.schedule import Schedule

Speeds = tuple[tuple[float, float], ...]
"""(number of steps that want a core, their speed relative to equal shares of the cores), by rising number; linear in
between, constant beyond."""


@dataclass(frozen=True)
class Contention:
    """How steps that run at the same time slow each other, beyond their shares of the cores."""

    speeds: Speeds = ((1.0, 1.0),)
    spread: float = 0.0
    """Standard deviation of the logarithm of a factor on the seconds of a step that begins while other steps run: a
    scheduler is fair only on average."""


IDEAL = Contention()


class Cores:
    """The cores of a host, which all running steps share equally, as threads do under a fair scheduler.

    While the steps together want more cores than there are, each of them runs more slowly by the same factor
    (egalitarian processor sharing). While others run, a step may be slower still (`Contention`). A step ends once a
    clock that runs at this speed has advanced by the step's seconds.
    """

    def __init__(self, env: simpy.Environment, count: int, contention: Contention, seed: str) -> None:
        self._env = env
        self.capacity = count
        self._contention = contention
        self._rng = random.Random(seed)
        self._wanted = 0.0
        self._clock = 0.0
        self._looked = 0.0
        self._busy = 0.0
        self._running: list[tuple[float, int, float, simpy.Event]] = []
        """(clock at its end, order, cores, event) of each step: a heap."""
        self._order = 0
        self._plans = 0

    def work(self, seconds: float, cores: float) -> simpy.Event:
        """Begin a step that takes `seconds` on idle cores and keeps `cores` busy. The event happens at its end."""
        self._advance()
        if (spread := self._contention.spread) and self._running:
            seconds *= math.exp(self._rng.gauss(-(spread**2) / 2, spread))  # 1 on average
        done = self._env.event()
        self._order += 1
        heapq.heappush(self._running, (self._clock + seconds, self._order, cores, done))
        self._wanted += cores
        self._plan()
        return done

    def busy(self) -> float:
        """Core seconds used until now."""
        self._advance()
        return self._busy

    @property
    def load(self) -> float:
        """Cores that steps want now, over the cores of the host."""
        return self._wanted / self.capacity

    def _speed(self) -> float:
        shared = 1.0 if self._wanted <= self.capacity else self.capacity / self._wanted
        return shared * _at(self._contention.speeds, self._wanted)

    def _advance(self) -> None:
        passed = self._env.now - self._looked
        self._clock += passed * self._speed()
        self._busy += passed * min(self._wanted, self.capacity)
        self._looked = self._env.now

    def _plan(self) -> None:
        """Call `_look` when the next step ends. A step that begins or ends earlier makes a new plan."""
        self._plans += 1
        left = max(0.0, self._running[0][0] - self._clock)
        look = self._env.timeout(left / self._speed(), self._plans)
        assert look.callbacks is not None
        look.callbacks.append(self._look)

    def _look(self, event: simpy.Event) -> None:
        if event.value != self._plans:
            return
        self._advance()
        self._clock, _, cores, done = heapq.heappop(self._running)  # exactly, without the rounding of `_advance`
        self._wanted = self._wanted - cores if self._running else 0.0
        done.succeed()
        if self._running:
            self._plan()


@functools.lru_cache(4096)
def _at(speeds: Speeds, wanted: float) -> float:
    wants, shares = zip(*speeds, strict=True)
    return float(np.interp(wanted, wants, shares))


def least_busy(hosts: Sequence[Cores]) -> Cores:
    """The cores with the lowest load, on which a new step runs."""
    return hosts[0] if len(hosts) == 1 else min(hosts, key=lambda cores: cores.load)


class Slots:
    """A number of places. A caller that finds no free place waits in a queue, first come, first served."""

    def __init__(self, env: simpy.Environment, capacity: int = 1) -> None:
        self._env = env
        self.capacity = capacity
        self.taken = 0
        self.waiting: deque[simpy.Event] = deque()
        self._looked = 0.0
        self._busy = 0.0

    def acquire(self) -> simpy.Event | None:
        """Take a free place and return None; if there is none, return the event at which the caller gets a place."""
        if self.taken < self.capacity:
            self._advance()
            self.taken += 1
            return None
        event = self._env.event()
        self.waiting.append(event)
        return event

    def release(self) -> None:
        """Give a place back, or pass it on."""
        if self.waiting:
            self.waiting.popleft().succeed()
        else:
            self._advance()
            self.taken -= 1

    def busy(self) -> float:
        """Place seconds taken until now."""
        self._advance()
        return self._busy

    def _advance(self) -> None:
        self._busy += (self._env.now - self._looked) * self.taken
        self._looked = self._env.now


class Wire:
    """One direction of a link: messages queue for its bandwidth, and overlap while they travel."""

    capacity = 1

    def __init__(self, env: simpy.Environment, link: Link, seed: int) -> None:
        self._env = env
        self._schedule = Schedule(link, f"{link.source} {link.target} {seed}")
        self._seconds = 8 / link.bandwidth
        self._given = 0.0

    def deliver(self, nbytes: int) -> simpy.Event:
        """Send a message of `nbytes` now. The event happens when it has arrived."""
        now = self._env.now
        self._given += nbytes * self._seconds
        return self._env.timeout(max(0.0, self._schedule.deliver(now, nbytes) - now))

    def busy(self) -> float:
        """Seconds for which this direction has been sending until now."""
        return self._given - max(0.0, self._schedule.free - self._env.now)
