"""Tensors in memory that two processes share, beside a Unix socket that carries everything else.

Rules:
  - The sender copies the tensors of a message into a segment (`memfd_create`) that the receiver maps for reading. The
    receiver's arrays are views of that mapping, which lives as long as any of them.
  - A segment has no name. Its descriptor is passed once, over the socket. The kernel frees the segment when the last
    process that maps it ends, even by a crash: nothing is left in /dev/shm, and the size of /dev/shm does not matter.
  - The receiver reports with its next message which segments have no views any more. The sender uses these again, since
    allocating new pages costs more time than the copy.
  - A segment is sealed against shrinking, which would kill a process that reads it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from transports import frame_codec as codec
from transports.errors import MessageTooLarge, ResourceExhausted
from transports.frames import Frame, FrameConnection, FrameStream, OutOfStep
from transports.limits import Limits
from transports.shm_socket import ShmSocket
from transports.sockets import DeadlineSocket

LINK = struct.Struct("<IQQ")
"""The header before a description: one more than the number of the segment (0: the tensors follow over the socket), the
bytes of tensors in the segment, and one bit for each segment that the other end may use again."""
SEGMENTS = 64
"""Most segments that an end has on a connection: the bits of a word. If all are in use, tensors cross by the socket."""
LEAST = 2**17
"""Size of tensors in bytes from which on shared memory is faster than the socket."""
ROUND = 2**16
"""The size of a segment is a multiple of so many bytes."""


@dataclass
class Segment:
    """A segment that this end writes."""

    memory: NDArray[np.uint8]
    busy: bool = True
    """Whether the other end may still read it."""


@dataclass
class Mapping:
    """A segment that the other end writes, mapped for reading."""

    memory: mmap.mmap
    views: list[Callable[[], object]] = field(default_factory=list)
    """The weak reference whose callback reports that the segment has no view any more."""


def allocate(size: int) -> tuple[int, mmap.mmap]:
    """A descriptor and the mapping of a new segment of at least `size` bytes. Raises `OSError`."""
    descriptor = os.memfd_create("splitbench", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        whole = -(-size // ROUND) * ROUND
        os.posix_fallocate(descriptor, 0, whole)  # fails here, not by a signal at the first write
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
        return descriptor, mmap.mmap(descriptor, whole)
    except BaseException:
        os.close(descriptor)
        raise


def check() -> None:
    """Raise `OSError` if the system cannot make a segment."""
    if not hasattr(os, "memfd_create"):
        raise OSError("this system has no memfd_create")
    descriptor, _ = allocate(ROUND)
    os.close(descriptor)


class ShmStream(FrameStream):
    """A `FrameStream` that puts the tensors of large messages into shared memory."""

    def __init__(self, sock: DeadlineSocket, limits: Limits, stall: float) -> None:
        super().__init__(sock, limits, stall)
        assert isinstance(sock, ShmSocket)
        self._passing = sock
        self._own: list[Segment] = []
        self._theirs: dict[int, Mapping] = {}
        self._unused: deque[int] = deque()
        """Numbers of the other end's segments that have no views any more, to be reported with the next message."""

    def send(self, parts: list[codec.Buffer]) -> None:
        """Raises `ResourceExhausted` if the system has no memory for a segment."""
        first, *rest = parts
        magic, described, size = codec.HEAD.unpack_from(first)
        if not described:
            return super().send(parts)
        number = self._written(rest, size) if size >= LEAST else 0
        unused = 0
        while self._unused:
            unused |= 1 << self._unused.popleft()
        head = codec.HEAD.pack(magic, described + LINK.size, 0 if number else size) + LINK.pack(
            number, size if number else 0, unused
        )
        return super().send([head + bytes(first[codec.HEAD.size :]), *([] if number else rest)])

    def _written(self, buffers: Sequence[codec.Buffer], size: int) -> int:
        """One more than the number of the segment into which `buffers` were copied; 0 if all are in use."""
        free = [number for number, segment in enumerate(self._own) if not segment.busy]
        enough = [number for number in free if self._own[number].memory.size >= size]
        if not free and len(self._own) == SEGMENTS:
            return 0
        if enough:
            number = min(enough, key=lambda number: self._own[number].memory.size)
            self._own[number].busy = True
        else:
            number = free[0] if free else len(self._own)
            self._own[number : number + 1] = [self._made(size)]
        memory, place = self._own[number].memory, 0
        for buffer in buffers:
            memory[place : place + len(buffer)] = np.frombuffer(buffer, np.uint8)
            place += len(buffer)
        return number + 1

    def _made(self, size: int) -> Segment:
        """A new segment, whose descriptor is sent with the next bytes."""
        try:
            descriptor, memory = allocate(size)
        except OSError as error:
            raise ResourceExhausted(f"no shared memory for {size} bytes: {error.strerror}; take 'unix'") from None
        self._passing.outgoing.append(descriptor)
        return Segment(np.frombuffer(memory, np.uint8))

    def receive(self) -> Frame:
        description, data = super().receive()
        if not description:
            return description, data
        if len(description) < LINK.size:
            raise OutOfStep(f"{len(description)} bytes describe no message")
        number, size, unused = LINK.unpack_from(description)
        for own, segment in enumerate(self._own):
            segment.busy &= not unused >> own & 1
        if number:
            data = self._read(number - 1, size)
        return memoryview(description)[LINK.size :], data

    def _read(self, number: int, size: int) -> memoryview:
        """The first `size` bytes of segment `number` of the peer. Raises `MessageTooLarge`, `OutOfStep`, `OSError`."""
        if self._passing.incoming:
            self._theirs[number] = Mapping(_mapped(self._passing.incoming.pop(0)))
        found = self._theirs.get(number)
        if found is None or number >= SEGMENTS or size > len(found.memory):
            raise OutOfStep(f"segment {number} has no {size} bytes")
        if size > self._limits.max_message + codec.MOST_PADDING:
            self._unused.append(number)
            raise MessageTooLarge(f"tensors of {size} bytes are above the limit of {self._limits.max_message} bytes")
        view = np.frombuffer(found.memory, np.uint8, size)
        found.views[:] = [weakref.ref(view, partial(_report, self._unused, number))]
        return view.data


def _report(unused: deque[int], number: int, view: object) -> None:
    unused.append(number)


def _mapped(descriptor: int) -> mmap.mmap:
    """Map the segment of `descriptor`, and close the descriptor. Raises `OutOfStep` if it may shrink, and `OSError`."""
    try:
        if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
            raise OutOfStep("a segment came that may shrink")
        return mmap.mmap(descriptor, 0, prot=mmap.PROT_READ)
    finally:
        os.close(descriptor)


class ShmConnection(FrameConnection):
    protocol = "shared memory"
    Stream = ShmStream
