"""Sockets with deadlines: how long an operation waits, and how often the kernel's time limit is set."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import transports
from transports import frame_codec
from transports.base import Message
from transports.sockets import Deadline, DeadlineSocket, Expired


class Counted(DeadlineSocket):
    """Counts how often a time limit is set."""

    limits_set = 0

    def setsockopt(self, *arguments: Any) -> None:
        self.limits_set += 1
        super().setsockopt(*arguments)


@pytest.fixture
def ends() -> Iterator[tuple[Counted, socket.socket]]:
    left, right = socket.socketpair()
    with Counted(fileno=left.detach()) as own, right:
        yield own, right


def test_time_limits_that_differ_by_a_millisecond_are_set_once(ends: tuple[Counted, socket.socket]) -> None:
    own, peer = ends
    for number in range(200):
        own.deadline = Deadline.after(60 + number % 2 / 1000).moment
        own.send(b"request")
        peer.send(peer.recv(100))
        assert own.recv(100) == b"request"
    assert own.limits_set <= 40  # two, unless the machine pauses this process


def test_the_first_bytes_of_a_message_may_come_after_the_patience(ends: tuple[Counted, socket.socket]) -> None:
    own, peer = ends
    own.patience = 0.02
    with pytest.raises(Expired):
        own.recv(1)
    later = threading.Timer(0.2, peer.send, [b"late"])
    later.start()
    buffer = memoryview(bytearray(10))
    assert own.recv_first(buffer) == 4
    assert bytes(buffer[:4]) == b"late"
    later.join()


def test_the_first_bytes_of_a_message_must_come_before_the_deadline(ends: tuple[Counted, socket.socket]) -> None:
    own, _ = ends
    own.patience, own.deadline = 0.02, time.monotonic() + 0.1
    with pytest.raises(Expired):
        own.recv_first(memoryview(bytearray(10)))
    assert time.monotonic() >= own.deadline


@pytest.mark.parametrize("name", ["tcp", "unix", "shm"])
def test_tensors_of_a_large_message_are_aligned_for_tensorflow(name: str) -> None:
    transport, starts = transports.make(name), list[int]()

    def handle(message: Message) -> Message:
        starts.extend(tensor.ctypes.data % frame_codec.ALIGN for tensor in message.tensors.values())
        return message

    sent = {"a": np.arange(40_001, dtype=np.uint8), "b": np.arange(30_003, dtype=np.uint16)}
    with transport.serve(handle, "127.0.0.1", 0, 1) as server, transport.connect(server.address) as connection:
        for _ in range(3):
            answer = connection.call(Message("echo", {}, sent), 20.0)
            for tensor, array in sent.items():
                np.testing.assert_array_equal(answer.tensors[tensor], array)
                assert answer.tensors[tensor].ctypes.data % frame_codec.ALIGN == 0
    assert starts == [0] * 6
