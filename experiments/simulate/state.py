"""The state of processes and requests in a simulation, and the trace that it returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import simpy

from experiments.simulate.draws import Floats
from experiments.simulate.resources import Cores, Slots


class Refused(Exception):
    """A server has no room for the request, or its time limit has passed."""


@dataclass(frozen=True, eq=False)
class Trace:
    """What happened to each request, in the order of arrival, and how much of each resource was used."""

    starts: Floats
    """The intended start of each request, in seconds after the begin."""
    seconds: Floats
    """From the intended start to the answer, or to the refusal."""
    missed: np.ndarray[tuple[int], np.dtype[np.bool_]]
    """Refused, or not answered within the time limit."""
    lead: int
    """Requests at the begin that do not count: the system was empty before them."""
    used: Mapping[str, tuple[float, float]]
    """Resource -> (seconds in use, seconds available), from the first counted start to the last start."""
    whole: Mapping[str, float]
    """Resource -> seconds in use until the last request has left."""
    in_flight: float
    """Request seconds: the number of requests in the system, summed over time until the last one has left."""


@dataclass
class Process:
    """A process of the client or of a server."""

    name: str
    host: str
    cores: Sequence[Cores]
    """The cores that it may use, an item for each host."""
    interpreter: Slots
    slots: Slots
    workers: int
    calls: int = 0
    """Calls that the process handles now; in the flow `forward`, messages that wait in it."""
    senders: dict[str, Slots] = field(default_factory=dict)
    """Process -> the sender of messages to it (flow `forward`)."""


@dataclass
class Request:
    number: int
    intended: float
    row: list[float]
    done: simpy.Event
    arrived: dict[int, simpy.Event] = field(default_factory=dict)
    """Visit -> the event of its arrival, for each visit for which another visit waits."""
    results: int = 0
    refused: bool = False
