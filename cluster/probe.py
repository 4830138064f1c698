"""Measures the network path between two hosts: whether one reaches the other, the round trip, and the bandwidth of one
direction.

A probe is a process on each host that answers messages, and connects to other probes when asked, over plain sockets.
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
"""Seconds within which a host has to accept a connection."""
ANSWER = 60.0
"""Seconds within which a message of `MOST` bytes has to be answered."""
ROUNDS = 10
"""Number of round trips; the shortest counts."""
ENOUGH = 0.2
"""Seconds that a message has to take for its bytes per second to count as the bandwidth."""
AGAIN = 2
"""Number of further messages of `MOST` bytes if even these take less than `ENOUGH`; the fastest message counts."""
FIRST, MOST, GROWTH = 2**16, 2**26, 8.0
"""Bytes of the first message; most bytes of a message; the factor by which the next message is larger at most."""


@dataclass(frozen=True)
class Way:
    """A measured network path from one host to another."""

    rtt: float
    """Seconds of the shortest round trip of a message of about 100 bytes, including the work of both ends."""
    bandwidth: float
    """Bits per second of the largest message, after subtracting the round trip."""

    def record(self) -> dict[str, float]:
        return asdict(self)


class Unreachable(ClusterDown):
    """A host cannot reach another host at an address."""


def measure(transport: Transport, address: Address) -> Way:
    """Measure the path from this process to the probe at `address`, in one to three seconds. Raises a `WireError`."""
    with transport.connect(address, timeout=REACH) as connection:
        rtt = min(_seconds(connection, 0) for _ in range(1 + ROUNDS))
        size = FIRST
        while True:
            seconds = _seconds(connection, size)
            if seconds - rtt >= ENOUGH:
                return Way(rtt, 8 * size / (seconds - rtt))
            if size >= MOST:
                break
            size = min(MOST, int(size * min(GROWTH, 1.5 * ENOUGH / max(1e-9, seconds - rtt))))
        seconds = min(seconds, *(_seconds(connection, size) for _ in range(AGAIN)))
        return Way(rtt, 8 * size / max(1e-9, seconds - rtt))


def _seconds(connection: Connection, size: int) -> float:
    """Seconds until a probe has answered a message of `size` bytes."""
    message = Message("take", {}, {"bytes": np.zeros(size, np.uint8)})
    began = time.perf_counter()
    connection.call(message, ANSWER)
    return time.perf_counter() - began


class Probe:
    """The handler of a probe. `options`: the options of its transport (NAME.KEY -> value)."""

    def __init__(self, options: dict[str, str]) -> None:
        self._transport = transports.make(TRANSPORT, options)

    def handle(self, message: Message) -> Message:
        """Answer `take` at once, `reach` once the probe at the field `address` has answered, and `dial` with the `Way`
        to that probe. Raises a `WireError`."""
        if message.method == "take":
            return Message("taken")
        with fields_read("a message to a probe has"):
            address = Address.parse(text(message.fields, "address"))
        match message.method:
            case "reach":
                reach(self._transport, address)
                return Message("reached")
            case "dial":
                return Message("dialled", measure(self._transport, address).record())
        raise MalformedMessage(f"a probe has no method {message.method!r}: it has 'take', 'reach' and 'dial'")


def reach(transport: Transport, address: Address) -> None:
    """Return once the probe at `address` has answered. Raises a `WireError`."""
    with transport.connect(address, timeout=REACH) as connection:
        connection.call(Message("take"), REACH)


def ask_reach(transport: Transport, probe: Address, other: Address) -> None:
    """Return once the host of `probe` has had an answer from the probe `other`. Raises a `WireError`."""
    with transport.connect(probe, timeout=REACH) as connection:
        connection.call(Message("reach", {"address": str(other)}), ANSWER)


def ask(transport: Transport, probe: Address, other: Address) -> Way:
    """Let `probe` measure the path from its host to the probe `other`. Raises a `WireError`."""
    with transport.connect(probe, timeout=REACH) as connection:
        reply = connection.call(Message("dial", {"address": str(other)}), 120.0)
    with fields_read(f"the probe at {probe} answered with"):
        return Way(positive(reply.fields, "rtt"), positive(reply.fields, "bandwidth"))


def unreachable(source: str, target: str, address: Address, error: WireError) -> Unreachable:
    """The error that tells that host `source` cannot reach host `target` at `address`."""
    return Unreachable(
        f"{source} does not reach {target} at {address} within {REACH:.0f} s ({error}); let the firewall between them "
        "pass its ports: all, or those from `port` of the host on"
    )
