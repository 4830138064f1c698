"""Messages over ZeroMQ sockets: the same frames in both directions.

    first frame    magic, `max_message` of the sender, a time,
                   bytes of the description, kind of the rest          struct `HEAD`
                   description and, where they are `JOINED`, tensors   as in `frame_codec`
    otherwise      one frame for each tensor                           little-endian elements in C order

Rules:
  - Small tensors are in the first frame, since each frame costs as much as a small message.
  - A request has its deadline as the time, an answer the time at which it was sent, both on the server's clock
    (`time.monotonic()` of its process). From answers a client knows how far that clock is ahead of its own.
  - No end sends more than the other end takes: ZeroMQ drops a connection on which a frame above its limit comes.
  - An empty description asks whether a server is ready, and is its answer.
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
"""Kinds of a message: tensors in the first frame; frames of up to `COPIED` bytes each; and larger ones."""
KIND_LARGE = bytes([LARGE])
"""The last byte of the head of a large message."""
COPIED = 2**14
"""Bytes of a frame up to which its bytes are copied. ZeroMQ reads small frames into one buffer, where they lie at any
address; arrays must be aligned."""
QUEUED = 8
"""Messages that ZeroMQ keeps for a connection. A connection has one call at a time."""
CLOSED_AFTER = 0
"""Milliseconds for which a closed socket goes on sending."""

LAST, MORE = int(zmq.DONTWAIT), int(zmq.DONTWAIT | zmq.SNDMORE)
"""Flags of the last frame of a message and of those before it."""

RCVMORE = int(zmq.RCVMORE)

Parts = list[frame_codec.Buffer]
Outgoing = tuple[int, int, Parts]
"""Bytes of a description, the kind of the message, and its frames; the first begins with the description."""
Joined = tuple[bytes, bytes | None]
"""A description, and the bytes of the tensors where they are in the same frame."""
READY: Outgoing = (0, JOINED, [b""])
"""The question whether a server is ready, and its answer."""


def configure(sock: zmq.Socket[bytes], limits: Limits) -> None:
    """Set what both ends need before they bind or connect."""
    sock.linger = CLOSED_AFTER
    sock.ipv6 = True
    sock.sndhwm = sock.rcvhwm = QUEUED
    sock.maxmsgsize = max(limits.max_message, ENVELOPE + HEAD.size)


def endpoint(address: Address) -> str:
    """`address` with a number for the host's name, as ZeroMQ writes it. Raises `OSError`, `ValueError`."""
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
    """The frames of `message`: its own, with the head before the first one."""
    described, kind, (first, *rest) = message
    return [HEAD.pack(MAGIC, limit, moment, described, kind) + first, *rest]


def send(sock: zmq.Socket[bytes], frames: Parts) -> None:
    """Send `frames` as one message, or drop it if the peer has gone or takes no more."""
    *before, last = frames
    for frame in before:
        sock.send(frame, MORE)
    sock.send(last, LAST)


def receive(sock: zmq.Socket[bytes], flags: int = LAST) -> tuple[bytes, Parts]:
    """The first frame of a message and the others. Raises `zmq.Again` if there is none.

    A view of a frame costs several times as much as a copy of a small one: only messages with large tensors have any.
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
    """The sender's limit, the time, and what is described in a first frame. Raises `MalformedMessage`."""
    if not data.startswith(MAGIC) or len(data) < HEAD.size:
        raise MalformedMessage(f"{data[: HEAD.size]!r} does not begin a message of splitbench")
    _, limit, moment, described, kind = HEAD.unpack_from(data)
    end = HEAD.size + described
    return limit, moment, (data[HEAD.size : end], data[end:] if kind == JOINED else None)


def read(came: tuple[Joined, Parts]) -> Message:
    """The message of a first frame and the others. Raises `MalformedMessage`."""
    (description, tensors), rest = came
    if tensors is None:
        return frame_codec.read_parts(description, rest)
    if rest:
        raise MalformedMessage(f"{len(rest)} frames came after a whole message")
    return frame_codec.read((description, tensors))
