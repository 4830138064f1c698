"""Messages over ZeroMQ sockets: the same frames in both directions.

    head           magic, `max_message` of the sender, a time            struct `HEAD`
      description  as in `frame_codec`, in the same frame
    one frame for each tensor                                            little-endian elements in C order

Rules:
  - A request has its deadline as the time, an answer the time at which it was sent, both on the server's clock
    (`time.monotonic()` of its process). From answers a client knows how far that clock is ahead of its own.
  - No end sends more than the other end takes: ZeroMQ drops a connection on which a frame above its limit comes.
  - An empty description asks whether a server is ready, and is its answer.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from collections.abc import Sequence

import zmq

from transports import frame_codec
from transports.address import Address
from transports.base import Message
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, Limits

HEAD = struct.Struct("<4sQd")
MAGIC = b"spz1"
COPIED = 2**14
"""Bytes of a frame up to which its bytes are copied. ZeroMQ reads small frames into one buffer, where they lie at any
address; arrays must be aligned."""
QUEUED = 8
"""Messages that ZeroMQ keeps for a connection. A connection has one call at a time."""
CLOSED_AFTER = 0
"""Milliseconds for which a closed socket goes on sending."""

Parts = list[frame_codec.Buffer]


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


def write(message: Message, limit: int) -> Parts:
    """The description of `message` and its tensors. Raises `MalformedMessage`, and `MessageTooLarge` above `limit`."""
    if message.payload > limit:
        what = f"the tensors of {message.method!r} take {message.payload} bytes"
        raise MessageTooLarge(f"{what}, above the limit of {limit} bytes at the other end")
    description, arrays = frame_codec.describe(message)
    return [description, *map(frame_codec.buffer_of, arrays)]


def send(sock: zmq.Socket[bytes], frames: Sequence[frame_codec.Buffer | zmq.Frame]) -> None:
    """Send `frames` as one message, or drop it if the peer has gone or takes no more."""
    last = len(frames) - 1
    for number, frame in enumerate(frames):
        sock.send(frame, zmq.DONTWAIT if number == last else zmq.DONTWAIT | zmq.SNDMORE)


def receive(sock: zmq.Socket[bytes]) -> list[zmq.Frame]:
    """The frames of the next message. Raises `zmq.Again` if there is none."""
    frames = [sock.recv(zmq.DONTWAIT, copy=False)]
    while frames[-1].more:
        frames.append(sock.recv(zmq.DONTWAIT, copy=False))
    return frames


def opened(frame: zmq.Frame) -> tuple[int, float, bytes]:
    """The sender's limit, the time, and the description in a first frame. Raises `MalformedMessage`."""
    data = frame.bytes
    if not data.startswith(MAGIC) or len(data) < HEAD.size:
        raise MalformedMessage(f"{data[: HEAD.size]!r} does not begin a message of splitbench")
    _, limit, moment = HEAD.unpack_from(data)
    return limit, moment, data[HEAD.size :]


def read(came: tuple[bytes, Sequence[zmq.Frame]]) -> Message:
    """The message of a description and the frames of its tensors. Raises `MalformedMessage`."""
    description, rest = came
    return frame_codec.read_parts(
        description, [frame.bytes if len(frame) <= COPIED else frame.buffer for frame in rest]
    )
