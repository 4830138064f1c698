"""Messages over ZeroMQ sockets: the same frames in both directions.

    first frame    magic, `max_message` of the sender, a time,
                   bytes of the description, kind of the rest          struct `HEAD`
                   description and, where they are `JOINED`, tensors   as in `frame_codec`
    otherwise      one frame for each tensor                           little-endian elements in C order

Rules:
  - Small tensors are in the first frame, since each frame costs as much as a small message.
  - The time in a request is its deadline; the time in an answer is the time of sending. Both are on the server's clock
    (`time.monotonic()` of its process). From answers, a client learns how far that clock is ahead of its own.
  - No end sends a message above the other end's limit, since ZeroMQ closes a connection on which such a frame arrives.
  - A message with an empty description asks whether a server is ready; the server's answer has one, too.
"""

from __future__ import annotations

import ipaddress
import socket
import struct

import zmq

from transports import frame_codec
from transports.address import Address
from transports.base import Message
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, Limits

HEAD = struct.Struct("<4sQdIB")
MAGIC = b"spz2"
JOINED, SMALL, LARGE = 0, 1, 2
"""Kinds of a message: with tensors in the first frame; with frames of up to `COPIED` bytes each; with larger frames."""
KIND_LARGE = bytes([LARGE])
"""The last byte of the head of a large message."""
COPIED = 2**14
"""Size in bytes up to which a frame is copied. ZeroMQ reads small frames into one buffer, in which they are unaligned;
arrays must be aligned."""
QUEUED = 8
"""Messages that ZeroMQ queues for a connection. A connection has one call at a time."""
CLOSED_AFTER = 0
"""Milliseconds for which a closed socket continues to send."""

LAST, MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
"""Send flags of the last frame of a message, and of the frames before it."""

RCVMORE, EVENTS, POLLIN = int(zmq.RCVMORE), int(zmq.EVENTS), int(zmq.POLLIN)

Parts = list[frame_codec.Buffer]
Outgoing = tuple[int, int, Parts]
"""Bytes of the description, the kind of the message, and its frames; the first frame begins with the description."""
Joined = tuple[bytes, bytes | None]
"""A description, and the bytes of the tensors if they are in the same frame, else None."""
READY: Outgoing = (0, JOINED, [b""])
"""The message that asks whether a server is ready, and the server's answer to it."""


def configure(sock: zmq.Socket[bytes], limits: Limits) -> None:
    """Set the socket options that both ends need before they bind or connect."""
    sock.linger = CLOSED_AFTER
    sock.ipv6 = True
    sock.sndhwm = sock.rcvhwm = QUEUED
    sock.maxmsgsize = max(limits.max_message, ENVELOPE + HEAD.size)


def endpoint(address: Address) -> str:
    """`address` as a ZeroMQ endpoint, with the host's IP address for its name. Raises `OSError`, `ValueError`."""
    if not 0 <= address.port < 2**16:
        raise ValueError(f"port {address.port} is none")
    if not address.host:
        host = "*"
    else:
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(address.host, None, type=socket.SOCK_STREAM)]
        host = min(found, key=lambda text: ipaddress.ip_address(text.partition("%")[0]).version)
    return f"tcp://{f'[{host}]' if ':' in host else host}:{address.port or '*'}"


def write(message: Message, limit: int) -> Outgoing:
    """`message` in the form that `headed` takes. Raises `MalformedMessage`, and `MessageTooLarge` above `limit`."""
    if message.payload > limit:
        what = f"the tensors of {message.method!r} take {message.payload} bytes"
        raise MessageTooLarge(f"{what}, above the limit of {limit} bytes at the other end")
    description, arrays = frame_codec.describe(message)
    if message.payload <= COPIED:
        return len(description), JOINED, [b"".join((description, *frame_codec.padded(arrays)[0]))]
    kind = LARGE if any(array.nbytes > COPIED for array in arrays) else SMALL
    return len(description), kind, [description, *map(frame_codec.buffer_of, arrays)]


def headed(message: Outgoing, limit: int, moment: float) -> Parts:
    """The frames of `message`, with the head added in front of the first frame."""
    described, kind, (first, *rest) = message
    return [HEAD.pack(MAGIC, limit, moment, described, kind) + first, *rest]


def arrived(sock: zmq.Socket[bytes]) -> bool:
    """Whether a message can be received. `Socket.poll` takes ten times as long, and so does raising `zmq.Again`."""
    return bool(int(sock.get(EVENTS)) & POLLIN)


def send(sock: zmq.Socket[bytes], frames: Parts) -> None:
    """Send `frames` as one message, or drop it if the peer has gone or takes no more."""
    *before, last = frames
    for frame in before:
        sock.send(frame, MORE)
    sock.send(last, LAST)


def receive(sock: zmq.Socket[bytes], flags: int = LAST) -> tuple[bytes, Parts]:
    """The first frame of the next message, and its other frames. Raises `zmq.Again` if there is no message.

    A view of a frame costs several times as much as a copy of a small frame, so only frames of large tensors are views.
    """
    first = sock.recv(flags)
    rest: Parts = []
    while sock.get(RCVMORE):
        if first[HEAD.size - 1 : HEAD.size] == KIND_LARGE:
            frame = sock.recv(LAST, copy=False)
            rest.append(frame.bytes if len(frame) <= COPIED else frame.buffer)
        else:
            rest.append(sock.recv(LAST))
    return first, rest


def opened(data: bytes) -> tuple[int, float, Joined]:
    """The sender's limit, the time, and the rest of a first frame. Raises `MalformedMessage`."""
    if not data.startswith(MAGIC) or len(data) < HEAD.size:
        raise MalformedMessage(f"{data[: HEAD.size]!r} does not begin a message of splitbench")
    _, limit, moment, described, kind = HEAD.unpack_from(data)
    end = HEAD.size + described
    return limit, moment, (data[HEAD.size : end], data[end:] if kind == JOINED else None)


def read(came: tuple[Joined, Parts]) -> Message:
    """The message in its first frame and its other frames. Raises `MalformedMessage`."""
    (description, tensors), rest = came
    if tensors is None:
        return frame_codec.read_parts(description, rest)
    if rest:
        raise MalformedMessage(f"{len(rest)} frames came after a whole message")
    return frame_codec.read((description, tensors))
