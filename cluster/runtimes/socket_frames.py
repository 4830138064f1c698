"""Tensors over plain TCP sockets, as a careful user writes them by hand: the frames of the runtime `sockets`.

    length        bytes of the description, as 4 bytes, little-endian
    description   MessagePack: a key, an error text, dtype and shape of each tensor
    tensors       their bytes, one after the other

Both ends belong to one run on one machine, so the frames have no limits and a stalled peer ends with its process.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

import msgspec
import numpy as np

from transports.address import Address
from transports.base import DTYPES, Array
from transports.wire import NAMES

LENGTH = struct.Struct("<I")


class Description(msgspec.Struct, array_like=True, gc=False):
    """The description of a frame, which precedes the tensors."""

    key: str
    error: str = ""
    """The error because of which there are no tensors; empty if there are tensors."""
    tensors: list[tuple[str, list[int]]] = []


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Description).decode


def connected(address: Address, timeout: float) -> socket.socket:
    """A connection to `address`. Raises `OSError`."""
    sock = socket.create_connection(address, timeout)
    sock.settimeout(None)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def send(sock: socket.socket, key: str, arrays: Sequence[Array], error: str = "") -> None:
    """Send one frame. Raises `OSError`."""
    described = [(NAMES[array.dtype], list(array.shape)) for array in arrays]
    description = _encode(Description(key, error, described))
    parts: list[bytes | memoryview] = [LENGTH.pack(len(description)) + description]
    parts += [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data for array in arrays]
    sent = sock.sendmsg(parts)
    for part in parts:
        if sent < len(part):
            sock.sendall(memoryview(part)[sent:])
        sent = max(0, sent - len(part))


def receive(sock: socket.socket) -> tuple[Description, list[Array]]:
    """The next frame. Raises `EOFError` at the end of the stream, and `OSError`."""
    description = _decode(_filled(sock, bytearray(LENGTH.unpack(_filled(sock, bytearray(LENGTH.size)))[0])))
    arrays: list[Array] = []
    for dtype, shape in description.tensors:
        array = np.empty(shape, DTYPES[dtype])
        _filled(sock, array.reshape(-1).view(np.uint8).data)
        arrays.append(array)
    return description, arrays


def _filled(sock: socket.socket, buffer: bytearray | memoryview) -> bytearray | memoryview:
    """`buffer`, filled with the next bytes of the stream."""
    view = memoryview(buffer)
    while view:
        count = sock.recv_into(view, 0, socket.MSG_WAITALL)
        if not count:
            raise EOFError("the peer has closed the connection")
        view = view[count:]
    return buffer
