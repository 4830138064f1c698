"""What a request carries beside its tensors: how it is to travel, how long it may take, and what it cost so far."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache

from transports.base import Message, Scalar
from transports.errors import MalformedMessage
from transports.limits import DAY


@dataclass(frozen=True)
class Route:
    """How a request travels: the same at every hop, decided by the client alone."""

    partition: str
    engine: str
    transport: str
    codec: str = ""
    """Empty: the transport's own."""
    flow: str = "nested"
    local_calls: bool = True
    registry: str = "cached"
    connections: str = "pooled"
    send: str = "bundle"

    def encode(self) -> str:
        return _encode(self)

    @staticmethod
    def decode(text: str) -> Route:
        return _decode(text)


@lru_cache(maxsize=1024)
def _encode(route: Route) -> str:
    return json.dumps(asdict(route))


@lru_cache(maxsize=1024)
def _decode(text: str) -> Route:
    return Route(**json.loads(text))


@dataclass(frozen=True)
class RequestStats:
    """What a request cost: everything that it caused, at every server that it reached."""

    messages: int = 0
    """Messages that carried tensors from one server (or the client) to another, answers not counted."""
    payload: int = 0
    """Bytes of tensors in those messages and in the answers to them."""
    lookups: int = 0
    """Times that the registry was asked."""
    connects: int = 0
    """Connections made."""
    compute: float = 0.0
    """Seconds that stages were executing, summed over the servers."""

    def __add__(self, other: RequestStats) -> RequestStats:
        return RequestStats(*(getattr(self, name) + getattr(other, name) for name in _STATS_FIELDS))

    def fields(self) -> dict[str, Scalar]:
        return {name: getattr(self, name) for name in _STATS_FIELDS}

    @classmethod
    def of(cls, message: Message) -> RequestStats:
        return cls(*(message.fields[name] for name in _STATS_FIELDS))  # type: ignore[arg-type]


_STATS_FIELDS = tuple(item.name for item in fields(RequestStats))


@dataclass(frozen=True)
class Request:
    """One attempt at an inference: its id, its route and its deadline (on this process's monotonic clock)."""

    id: str
    route: Route
    deadline: float
    reply_to: str = ""
    """Where outputs go that no call returns (flow `forward`)."""
    turn: int = 0
    """The request's number, by which several servers with one portion take turns."""
    attempt: int = 0
    """How often the inference was tried before, in vain. Then nobody relies on an address that he remembers."""
    pins: Mapping[int, int] = field(default_factory=dict)
    """Portion -> the epoch that serves it, where several do: chosen once, by the client, or the inputs of a join could
    meet different servers."""

    @property
    def remaining(self) -> float:
        """Seconds until the deadline. What remains travels with each hop, since clocks do not agree."""
        return self.deadline - time.monotonic()

    def fields(self) -> dict[str, Scalar]:
        fields: dict[str, Scalar] = {"request": self.id, "route": self.route.encode(), "remaining": self.remaining}
        fields |= {"turn": self.turn, "attempt": self.attempt}
        fields |= {"reply_to": self.reply_to} if self.reply_to else {}
        pins = " ".join(f"{server}={epoch}" for server, epoch in self.pins.items())
        return fields | {"pins": pins} if pins else fields

    @classmethod
    def of(cls, fields_: Mapping[str, Scalar]) -> Request:
        """The request of a message with these fields. Raises `MalformedMessage` for one that would never be over."""
        route = Route.decode(str(fields_["route"]))
        if not -DAY <= (remaining := float(fields_["remaining"])) <= DAY:
            raise MalformedMessage(f"a request has {remaining} seconds left: give a number up to {DAY}")
        deadline = time.monotonic() + remaining
        reply_to, turn, attempt = str(fields_.get("reply_to", "")), int(fields_["turn"]), int(fields_["attempt"])
        pairs = (pair.split("=") for pair in str(fields_.get("pins", "")).split())
        pins = {int(server): int(epoch) for server, epoch in pairs}
        return cls(str(fields_["request"]), route, deadline, reply_to, turn, attempt, pins)
