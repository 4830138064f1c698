"""What lies between two hosts: whether one reaches the other, the round trip, and the bandwidth of one direction.

A probe is a process on each host that answers and that dials other probes when it is asked to, over plain sockets.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

import numpy as np

import transports
from cluster.errors import ClusterDown
from cluster.registry import fields_read, positive, text
from transports.address import Address
from transports.base import Connection, Message, Transport
from transports.errors import MalformedMessage, WireError

TRANSPORT = "tcp"
"""The transport of probes."""
REACH = 5.0
"""Seconds within which a host has to be reached."""
ANSWER = 60.0
"""Seconds within which a message of `MOST` bytes has to be answered."""
ROUNDS = 10
"""Round trips, of which the shortest counts."""
ENOUGH = 0.2
"""Seconds that a message has to take on its way, so that its bytes per second are the bandwidth."""
FIRST, MOST = 2**16, 2**26
"""Bytes of the first message, and at most: four times as many each time."""


@dataclass(frozen=True)
class Way:
    """A measured way from one host to another."""

    rtt: float
    """Seconds of the shortest round trip, of a message of about 100 bytes, with the work of both ends."""
    bandwidth: float
    """Bits per second of the largest message sent, without the round trip."""

    def record(self) -> dict[str, float]:
        return asdict(self)


class Unreachable(ClusterDown):
    """A host does not reach another one at an address."""


def measure(transport: Transport, address: Address) -> Way:
    """The way from this process to the probe at `address`, in about a second. Raises a `WireError`."""
    with transport.connect(address, timeout=REACH) as connection:
        rtt = min(_seconds(connection, 0) for _ in range(1 + ROUNDS))
        size = FIRST
        while True:
            left = max(1e-9, _seconds(connection, size) - rtt)
            if left >= ENOUGH or size >= MOST:
                return Way(rtt, 8 * size / left)
            size *= 4


def _seconds(connection: Connection, size: int) -> float:
    """Seconds until a probe has answered a message of `size` bytes."""
    message = Message("take", {}, {"bytes": np.zeros(size, np.uint8)})
    began = time.perf_counter()
    connection.call(message, ANSWER)
    return time.perf_counter() - began


class Probe:
    """The handler of a probe. `options`: those of its transport (NAME.KEY -> value)."""

    def __init__(self, options: dict[str, str]) -> None:
        self._transport = transports.make(TRANSPORT, options)

    def handle(self, message: Message) -> Message:
        """Answer `take`, and `dial` with the `Way` to the field `address`. Raises a `WireError`."""
        if message.method == "take":
            return Message("taken")
        if message.method != "dial":
            raise MalformedMessage(f"a probe has no method {message.method!r}: it has 'take' and 'dial'")
        with fields_read("a message to a probe has"):
            address = Address.parse(text(message.fields, "address"))
        way = measure(self._transport, address)
        return Message("dialled", way.record())


def ask(transport: Transport, probe: Address, other: Address) -> Way:
    """The way from the host of `probe` to the probe `other`. Raises a `WireError`."""
    with transport.connect(probe, timeout=REACH) as connection:
        reply = connection.call(Message("dial", {"address": str(other)}), 120.0)
    with fields_read(f"the probe at {probe} answered with"):
        return Way(positive(reply.fields, "rtt"), positive(reply.fields, "bandwidth"))


def unreachable(source: str, target: str, address: Address, error: WireError) -> Unreachable:
    """The error of a host that cannot be reached by another."""
    return Unreachable(
        f"{source} does not reach {target} at {address} within {REACH:.0f} s ({error}); let the firewall between them "
        "pass its ports: all, or those from `port` of the host on"
    )
