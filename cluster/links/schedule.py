"""Computes when a link delivers data. Pure arithmetic: the caller passes the time."""

from __future__ import annotations

import math
import random

from cluster.links.link import Link

READ = 2**16
"""Most bytes that are read from a connection at a time."""
LEAST = 1448
"""Bytes of the smallest piece into which a long message is cut: the payload of one Ethernet frame."""
PIECE = 1e-3
"""Seconds for which a piece occupies a direction, unless `LEAST` or `READ` limits its size."""
BACKLOG = 0.02
"""Seconds. The relay does not read connections while their direction is occupied for longer than this time.

Meanwhile the bytes wait in the socket buffers of their own connections, as they do on a real host. So connections that
share a direction take turns, and a small message waits at most this time behind a large message of another connection.
The time is long enough to keep the direction busy when the relay gets no processor for some milliseconds.
"""
RESUME = BACKLOG / 2
"""The relay reads connections again when their direction is still occupied for this many seconds."""
MEMORY = 4 * 2**20
"""Bytes that each direction of a connection may buffer in any case."""
MARGIN = 0.2
"""Seconds. A direction may buffer what its link carries in its delay plus this time, if that is more than `MEMORY`."""
FASTEST = 1e10
"""Bits per second that stand for the bandwidth of an unlimited link when this buffer is computed."""


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
        """Seconds of transmission per byte."""
        self._random = random.Random(seed)
        rate = link.bandwidth / 8
        self.piece = READ if rate == math.inf else min(READ, max(LEAST, int(rate * PIECE)))
        """Size in bytes of the pieces of a long message."""
        self.read = READ if rate == math.inf else min(READ, max(LEAST, int(rate * RESUME)))
        """Bytes to read from a connection at a time: no connection may occupy the direction for long."""
        held = FASTEST / 8 * link.delay if rate == math.inf else rate * (link.delay + MARGIN)
        self.limit = max(MEMORY, int(held))
        """Bytes that one connection may have in transit: more than the link carries, so that the link never idles."""

    def follow(self, before: Schedule) -> None:
        """Replace the schedule `before`: data that it sent still occupies the direction, and its jitter continues.

        If the jitter restarted whenever cells of an experiment take turns, only a few of its values would ever occur.
        """
        self.free, self._random = before.free, before._random

    def deliver(self, arrived: float, size: int, after: float = 0.0) -> float:
        """The moment at which a piece of `size` bytes, which arrived at `arrived`, is delivered.

        The moment is not before `after`, the delivery of the connection's previous piece: jitter must not reorder data.
        """
        self.free = max(arrived, self.free) + size * self._seconds
        moment = self.free + self.delay
        if self._jitter:
            moment += self._random.uniform(-self._jitter, self._jitter)
        return max(after, moment)
