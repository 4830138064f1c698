"""A whole transport in one file, as a contributor would add it: frames over TCP. `test_new_transport` adds it."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

from transports import frame_codec
from transports.address import Address
from transports.base import Connection, Handler, Message, Server, Transport
from transports.errors import MalformedMessage, MessageTooLarge
from transports.limits import ENVELOPE, Limits
from transports.listener import Listener
from transports.serving import Guarded, guard, respond
from transports.socket_connection import SocketConnection, dial
from transports.sockets import Deadline, DeadlineSocket, no_delay, send_all

HEAD = struct.Struct("!QQ")
"""Bytes of the message's tensors, and of the frame that follows. An empty frame asks for an empty frame."""


class Toy(Transport):
    name = "toy"
    title = "Toy"

    def serve(self, handler: Handler, host: str, port: int, workers: int) -> Server:
        talk = partial(converse, guard(handler, self.options, workers), self.options)
        return Listener(talk, Address(host, port), self.options.stall)

    def connect(self, address: Address, codec: str = "", timeout: float = 10.0, shared: bool = False) -> Connection:
        self.check_codec(codec)
        deadline = Deadline.after(timeout)
        return ToyConnection(dial(address, None, deadline), address, self.options, deadline)


class ToyConnection(SocketConnection):
    protocol = "toy"

    def encode(self, message: Message) -> bytes:
        return framed(message)

    def _ask(self, request: bytes) -> bytes:
        send_all(self.sock, [request])
        return received(self.sock, self.limits)

    def decode(self, answer: bytes) -> Message:
        return read(answer)

    def _meet(self) -> None:
        no_delay(self.sock)
        send_all(self.sock, [HEAD.pack(0, 0)])
        if received(self.sock, self.limits):
            raise EOFError("it answered something else")

    def _violation(self, error: Exception) -> str | None:
        return None


def converse(handler: Guarded, limits: Limits, sock: DeadlineSocket) -> None:
    no_delay(sock)
    while sock.readable(None):
        came: list[bytes] = []

        def take(sock: DeadlineSocket, came: list[bytes] = came) -> Message:
            came.append(received(sock, limits))
            return read(came[0]) if came[0] else Message("ready")

        def answer(message: Message, gone: Callable[[], bool]) -> Message:
            return message if message.method == "ready" else handler(message, gone)

        reply = respond(answer, sock, take, framed, sock.gone)
        send_all(sock, [reply if came != [b""] else HEAD.pack(0, 0)])


def framed(message: Message) -> bytes:
    body = b"".join(frame_codec.parts(message))
    return HEAD.pack(message.payload, len(body)) + body


def read(body: bytes) -> Message:
    start = frame_codec.HEAD.size
    if len(body) < start:
        raise MalformedMessage(f"{len(body)} bytes are no message")
    end = start + frame_codec.HEAD.unpack_from(body)[1]
    return frame_codec.read((body[start:end], body[end:]))


def received(sock: DeadlineSocket, limits: Limits) -> bytes:
    """The next frame. Discards a frame above the limit, and then raises `MessageTooLarge`."""
    payload, length = HEAD.unpack(exactly(sock, HEAD.size))
    if payload > limits.max_message or length > limits.max_message + 2 * ENVELOPE:
        while length:
            length -= len(exactly(sock, min(length, 2**16)))
        raise MessageTooLarge(f"tensors of {payload} bytes are above the limit of {limits.max_message} bytes")
    return exactly(sock, length)


def exactly(sock: DeadlineSocket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        if not (piece := sock.recv(min(count - len(data), 2**20))):
            raise EOFError("the peer has closed the connection")
        data += piece
    return bytes(data)
