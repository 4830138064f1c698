"""Both ends of the transports over plain sockets: a message is a head, a description and the bytes of its tensors.

Rules:
  - A message is sent with one `sendmsg`: over TCP a head that is sent first doubles the time of a megabyte. A small
    message is received with one `recv_into`; of a larger one, the rest of the tensors is received into a buffer of
    its own.
  - An end reads a message above its limit to its end and discards it, so that both ends stay in step. It closes a
    connection whose peer speaks another protocol.
  - A client sends an empty message to check that the server is ready, and the server answers with an empty message.
"""

from __future__ import annotations

import ctypes
import math
from typing import ClassVar

import numpy as np

from transports import frame_codec as codec
from transports.address import Address
from transports.base import Message, failure
from transports.errors import MessageTooLarge
from transports.limits import ENVELOPE, Limits
from transports.serving import Guarded, respond
from transports.socket_connection import SocketConnection
from transports.sockets import Deadline, DeadlineSocket, no_delay, send_all

AHEAD = 2**15
"""Most bytes that one call receives before the length of a message is known."""
READY: list[codec.Buffer] = [codec.HEAD.pack(codec.MAGIC, 0, 0)]
Frame = tuple[codec.Buffer, codec.Buffer]
"""A description and the bytes of the tensors."""


class OutOfStep(Exception):
    """The received bytes do not match the beginning or the end of a message."""


class FrameStream:
    """Sends and receives messages over `sock`. Within a message, an operation waits for the peer for at most `stall` s.

    All methods raise `Expired`, `EOFError` and `OSError`.
    """

    def __init__(self, sock: DeadlineSocket, limits: Limits, stall: float) -> None:
        self._sock = sock
        self._limits = limits
        self._stall = stall
        self._ahead = memoryview(bytearray(AHEAD))

    def send(self, parts: list[codec.Buffer]) -> None:
        send_all(self._sock, parts)

    def receive(self) -> Frame:
        """The next message. `stall` does not limit the wait for its first bytes. The description is valid until the
        next call.

        Raises `MessageTooLarge` for a message above the limit, which has been discarded, and `OutOfStep`.
        """
        sock, ahead, start = self._sock, self._ahead, codec.HEAD.size
        count = self._received(sock.recv_first(ahead))
        while count < start:
            count += self._received(sock.recv_into(ahead[count:]))
        magic, described, size = codec.HEAD.unpack_from(ahead)
        end = start + described
        whole = end + size
        if magic != codec.MAGIC or described > ENVELOPE or count > whole:
            raise OutOfStep(f"{bytes(ahead[:start])!r} and {count - start} bytes more are no message")
        if count == whole:
            return ahead[start:end], bytes(ahead[end:whole])
        if size > self._limits.max_message + codec.MOST_PADDING:
            self._discard(whole - count)
            raise MessageTooLarge(f"tensors of {size} bytes are above the limit of {self._limits.max_message} bytes")
        return self._rest(count, end, size)

    def _rest(self, count: int, end: int, size: int) -> Frame:
        """Receive the rest of a message, whose tensors get a buffer of their own. `count` bytes have arrived, and the
        description ends after `end` bytes."""
        start, ahead = codec.HEAD.size, self._ahead
        if count < end:  # the description is long, or arrives slowly
            whole = memoryview(bytearray(end))
            whole[:count] = ahead[:count]
            self._fill(whole[count:])
            count, ahead = end, whole
        data = _aligned(size)
        if came := count - end:
            data[:came] = ahead[end:count]
        self._fill(data[came:] if came else data)
        return ahead[start:end], data

    def _fill(self, buffer: memoryview) -> None:
        sock, size = self._sock, len(buffer)
        while size:
            count = self._received(sock.recv_into(buffer, 0, sock.wait_all))
            if size := size - count:
                buffer = buffer[count:]

    def _discard(self, count: int) -> None:
        while count:
            count -= self._received(self._sock.recv_into(self._ahead, min(count, AHEAD)))

    @staticmethod
    def _received(count: int) -> int:
        if not count:
            raise EOFError("the peer has closed the connection")
        return count


def _aligned(size: int) -> memoryview:
    """A buffer of `size` bytes that starts at a multiple of `ALIGN`. The kernel provides its pages only when they are
    written."""
    room = np.empty(size + codec.ALIGN, np.uint8)
    start = -ctypes.addressof(ctypes.c_char.from_buffer(room.data)) % codec.ALIGN
    return room[start : start + size].data


def converse(handler: Guarded, limits: Limits, sock: DeadlineSocket, Stream: type[FrameStream] = FrameStream) -> None:
    """Answer the messages of one peer. Raises `EOFError` when the peer closes the connection."""
    no_delay(sock)
    stream = Stream(sock, limits, limits.stall)

    def reply() -> list[codec.Buffer]:
        """The answer to the next message. A function, so that a message's memory is free before the next one comes."""
        try:
            frame = stream.receive()
        except MessageTooLarge as error:
            return codec.parts(failure(error))
        return respond(handler, frame, codec.read, codec.parts, sock.gone) if frame[0] else READY

    while True:
        stream.send(reply())


class FrameConnection(SocketConnection):
    protocol = "plain sockets"
    Stream: ClassVar[type[FrameStream]] = FrameStream

    def __init__(self, sock: DeadlineSocket, address: Address, options: Limits, deadline: Deadline) -> None:
        no_delay(sock)
        self._stream = self.Stream(sock, options, math.inf)
        super().__init__(sock, address, options, deadline)

    def encode(self, message: Message) -> list[codec.Buffer]:
        return codec.parts(message)

    def _ask(self, request: list[codec.Buffer]) -> Frame:
        self._stream.send(request)
        return self._stream.receive()

    def decode(self, answer: Frame) -> Message:
        return codec.read(answer)

    def _meet(self) -> None:
        self._stream.send(READY)
        if self._stream.receive()[0]:
            raise OutOfStep("it answered something else than that it is ready")

    def _violation(self, error: Exception) -> str | None:
        return str(error) if isinstance(error, OutOfStep) else None
