"""The resources that a node has used so far: processor time, memory, bytes to and from each server, its host's energy.

Only bytes of tensors count. The calling process counts the bytes that it sends and the bytes of the answer, so that
each byte is counted once. It counts them before the client has the outputs of the request.
"""

from __future__ import annotations

import math
import resource
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from cluster.energy import METER
from cluster.registry import fields_read, text, whole
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage

PEAK_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in a unit of `ru_maxrss`."""


class Traffic:
    """Bytes of the tensors in calls to each address. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._bytes: dict[Address, list[int]] = {}

    def add(self, address: Address, there: int, back: int) -> None:
        with self._lock:
            if (sums := self._bytes.get(address)) is None:
                sums = self._bytes[address] = [0, 0]
            sums[0] += there
            sums[1] += back

    def bytes(self) -> Mapping[Address, tuple[int, int]]:
        """Address -> (bytes sent to it, bytes of its answers)."""
        with self._lock:
            return {address: (there, back) for address, (there, back) in self._bytes.items()}


@dataclass(frozen=True)
class Usage:
    """The resources that a process has used since it started."""

    cpu: float
    """Seconds of processor time, of all its threads."""
    peak: int
    """Largest resident memory so far, in bytes; a forked process starts with the value of its parent."""
    traffic: Mapping[Address, tuple[int, int]] = field(default_factory=dict)
    """The result of `Traffic.bytes`."""
    joules: float = math.nan
    """Energy of all processors of its host since the first `usage` message; NaN if the kernel does not tell."""

    @classmethod
    def of_this_process(cls, traffic: Traffic) -> Usage:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * PEAK_UNIT
        joules = METER.joules()
        return cls(time.process_time(), peak, traffic.bytes(), math.nan if joules is None else joules)

    def fields(self) -> dict[str, Scalar]:
        """The usage as fields of a message."""
        lines = "\n".join(f"{address} {there} {back}" for address, (there, back) in self.traffic.items())
        energy = {} if math.isnan(self.joules) else {"joules": self.joules}  # JSON has no NaN
        return {"cpu": self.cpu, "peak": self.peak, "traffic": lines, **energy}

    @classmethod
    def of(cls, message: Message) -> Usage:
        """The usage in the fields of `message`. Raises `MalformedMessage`."""
        with fields_read(f"{message.method!r} has"):
            cpu, joules = message.fields["cpu"], message.fields.get("joules", math.nan)
            for name, value in (("cpu", cpu), ("joules", joules)):
                if not isinstance(value, float):
                    raise MalformedMessage(f"{name}: {str(value)[:100]!r} is no number")
            rows = (line.split(" ") for line in text(message.fields, "traffic").splitlines())
            traffic = {Address.parse(address): (int(there), int(back)) for address, there, back in rows}
            return cls(float(cpu), whole(message.fields, "peak"), traffic, float(joules))
