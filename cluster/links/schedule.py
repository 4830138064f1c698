"""When a link delivers what it is given. Pure arithmetic: the caller says what time it is."""

from __future__ import annotations

import math
import random

from cluster.links.link import Link

READ = 2**16
"""Most bytes that are read from a connection at a time."""
LEAST = 1448
"""Bytes of the smallest piece into which a long message is cut: the payload of one Ethernet frame."""
PIECE = 1e-3
"""Seconds that a piece occupies a direction, if it is not limited by `LEAST` or `READ`."""
BACKLOG = 0.02
"""Seconds. Connections are not read while their direction is occupied for longer than this.

The bytes wait in the buffers of their own connections instead, as they do on a real host. So connections that share a
direction take turns, and a small message waits for this time at most behind a large one of another connection. It is
long enough that the direction does not fall idle when the relay gets no processor for some milliseconds.
"""
RESUME = BACKLOG / 2
"""Seconds that a direction is still occupied when its connections are read again."""
MEMORY = 4 * 2**20
"""Bytes that each direction of a connection may hold in any case."""
MARGIN = 0.2
"""Seconds. It may hold what a link carries in its delay and in this time, if that is more."""
FASTEST = 1e10
"""Bits per second that count as the bandwidth of a link without a limit: it may hold what these carry in its delay."""


class Schedule:
    """One direction of a link. All connections share it.

    A piece of n bytes that arrives at t is sent at `free = max(t, free) + n * 8 / bandwidth`, and is delivered at
    `free + delay`, more or less up to `jitter`. So pieces queue for the bandwidth, but they overlap while they travel.
    """

    def __init__(self, link: Link, seed: str) -> None:
        self.free = 0.0
        """The moment at which all bytes given so far have been sent."""
        self.delay = link.delay
        self._jitter = link.jitter
        self._seconds = 8 / link.bandwidth
        """Per byte."""
        self._random = random.Random(seed)
        rate = link.bandwidth / 8
        self.piece = READ if rate == math.inf else min(READ, max(LEAST, int(rate * PIECE)))
        """Bytes of one piece of a longer message."""
        self.read = READ if rate == math.inf else min(READ, max(LEAST, int(rate * RESUME)))
        """Bytes to read from a connection at a time: no connection may occupy the direction for long."""
        held = FASTEST / 8 * link.delay if rate == math.inf else rate * (link.delay + MARGIN)
        self.limit = max(MEMORY, int(held))
        """Bytes that one connection may have on their way; more than the link holds, so that it never falls idle."""

    def follow(self, before: Schedule) -> None:
        """Take the place of `before`: what it has sent occupies the direction, and its jitter goes on.

        If the jitter began anew, as often as cells of an experiment take turns, few of its values would ever occur.
        """
        self.free, self._random = before.free, before._random

    def deliver(self, arrived: float, size: int, after: float = 0.0) -> float:
        """The moment at which a piece of `size` bytes, which arrived at `arrived`, is delivered.

        It is not before `after`, the moment of the piece before it on its connection: jitter changes no order.
        """
        self.free = max(arrived, self.free) + size * self._seconds
        moment = self.free + self.delay
        if self._jitter:
            moment += self._random.uniform(-self._jitter, self._jitter)
        return max(after, moment)
