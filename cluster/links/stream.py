"""One direction of a connection through a relay.

A stream reads pieces from one leg, gives each to the schedule of its direction, and writes it to the other leg at the
moment that the schedule tells. The end of the data (FIN) and a reset are the last entries of the same queue.
"""

from __future__ import annotations

import itertools
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from enum import Enum

from cluster.links.kernel import receive, stamp
from cluster.links.loop import READ, WRITE, Call, Loop
from cluster.links.schedule import BACKLOG, RESUME, Schedule
from transports.sockets import no_delay

BATCH = 256
"""Most pieces in one write; the kernel accepts 1,024."""
HARD = struct.pack("ii", 1, 0)
"""The value of SO_LINGER with which closing resets the connection."""


class End(Enum):
    """How a stream ends after its last byte."""

    FIN = "its source has sent all"
    RESET = "its source has failed"


class Direction:
    """The direction from one host to the other, which the streams of all connections share."""

    def __init__(self, loop: Loop, schedule: Schedule) -> None:
        self.schedule = schedule
        self.carried = 0
        """Payload bytes that were given to the schedule. So the count is never lower than what receivers have."""
        self._loop = loop
        self._held: list[Stream] = []

    def hold(self, stream: Stream) -> None:
        """Let `stream` read again once the direction is occupied only for `RESUME` seconds."""
        if not self._held:
            self._loop.at(self.schedule.free - RESUME, self._resume)
        self._held.append(stream)

    def _resume(self) -> None:
        held, self._held = self._held, []
        for stream in held:
            stream.resume()


class Leg:
    """A non-blocking socket of a connection, and the calls for when it is ready."""

    def __init__(self, loop: Loop, sock: socket.socket) -> None:
        self.sock = sock
        self._loop = loop
        self._calls: dict[int, Call] = {}
        sock.setblocking(False)
        no_delay(sock)
        stamp(sock)

    def watch(self, event: int, call: Call | None) -> None:
        """Call `call` while the socket is ready for `event`; with None, stop calling."""
        if call is self._calls.get(event):
            return
        if call:
            self._calls[event] = call
        else:
            del self._calls[event]
        self._loop.watch(self.sock, self._calls)

    def close(self, hard: bool) -> None:
        """Close the socket; with `hard`, by a TCP reset."""
        self._calls.clear()
        self._loop.watch(self.sock, self._calls)
        if hard:
            with suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, HARD)
        self.sock.close()


class Stream:
    """One direction of a connection, from the leg `source` to the leg `sink`."""

    def __init__(self, loop: Loop, direction: Direction, source: Leg, sink: Leg) -> None:
        self.opposite: Stream
        """The stream in the other direction."""
        self.over: Callable[[End], None]
        """The function to call when the end of the data, or a reset, has been delivered."""
        self._loop = loop
        self._direction = direction
        self._source = source
        self._sink = sink
        self._queue: deque[tuple[float, memoryview | End]] = deque()
        self._queued = 0
        self._last = self._begun = 0.0
        self._reading: Call = self._read
        self._writing: Call = self._deliver
        self._ended = self._full = self._closed = False

    def begin(self, moment: float) -> None:
        """Start to read from the source at `moment`. Data that it sends before counts as sent at that moment."""
        self._begun = moment
        self._loop.at(moment, self.resume)

    def resume(self) -> None:
        """Read from the source."""
        if not (self._ended or self._full or self._closed):
            self._source.watch(READ, self._reading)

    def fail(self) -> None:
        """Handle a failed source: reset the sink, after the data that is in transit to it."""
        self._source.watch(READ, None)
        self._end(End.RESET)

    def close(self) -> None:
        """Drop the data in transit."""
        self._closed = True
        self._queue.clear()

    def _read(self) -> None:
        schedule = self._direction.schedule
        now = time.monotonic()
        if schedule.free - now > BACKLOG or self._queued > schedule.limit:
            self._source.watch(READ, None)
            self._full = self._queued > schedule.limit
            if not self._full:
                self._direction.hold(self)
            return
        try:
            data, arrived = receive(self._source.sock, schedule.read)
        except BlockingIOError:
            return
        except OSError:
            self.fail()
            return
        if not data:
            self._source.watch(READ, None)
            self._end(End.FIN)
            return
        piece, view, arrived = schedule.piece, memoryview(data), max(arrived, self._begun)
        for start in range(0, len(data), piece):
            self._put(arrived, view[start : start + piece])
        self._queued += len(data)
        self._direction.carried += len(data)

    def _end(self, end: End) -> None:
        if not self._closed:
            self._ended = True
            self._put(time.monotonic(), end)

    def _put(self, arrived: float, item: memoryview | End) -> None:
        size = 0 if isinstance(item, End) else len(item)
        self._last = self._direction.schedule.deliver(arrived, size, self._last)
        self._queue.append((self._last, item))
        if len(self._queue) == 1:
            self._loop.at(self._last, self._writing)

    def _deliver(self) -> None:
        """Write all data that is due, and schedule a call for the rest."""
        while self._queue and self._queue[0][0] <= time.monotonic():
            item = self._queue[0][1]
            if isinstance(item, End):
                self._queue.popleft()
                self.over(item)
            elif not self._write():
                return
        self._sink.watch(WRITE, None)
        if self._queue:
            self._loop.at(self._queue[0][0], self._writing)

    def _write(self) -> bool:
        """Write the pieces that are due. Returns False if the sink accepts no more at present, or failed."""
        now, parts = time.monotonic(), []
        for moment, item in itertools.islice(self._queue, BATCH):
            if moment > now or isinstance(item, End):
                break
            parts.append(item)
        try:
            sent = self._sink.sock.sendmsg(parts)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._break()
            return False
        self._sent(sent)
        if sent < sum(map(len, parts)):
            self._sink.watch(WRITE, self._writing)
            return False
        return True

    def _sent(self, size: int) -> None:
        """Remove the first `size` bytes from the queue, since they have been written."""
        self._queued -= size
        while size:
            moment, item = self._queue.popleft()
            assert isinstance(item, memoryview)
            if len(item) > size:
                self._queue.appendleft((moment, item[size:]))
            size -= min(size, len(item))
        if self._full and self._queued < self._direction.schedule.limit / 2:
            self._full = False
            self.begin(time.monotonic())

    def _break(self) -> None:
        """Handle a failed sink: the reset from its host travels back to the source."""
        self.close()
        self._source.watch(READ, None)
        if self.opposite._closed:
            self.over(End.RESET)  # the opposite stream has failed, too
        else:
            self.opposite.fail()
