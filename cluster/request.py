"""A request as messages carry it: its id, its route, its remaining time, and its statistics so far."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated

import msgspec
from msgspec import Meta

from cluster.flow_table import FLOW_NAMES
from transports.address import Address
from transports.base import Message, Scalar
from transports.errors import MalformedMessage
from transports.limits import DAY
from transports.spans import TRACEPARENT, Context, child, context_of


class Route(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a request travels. The client chooses the route; it is the same at every hop."""

    partition: str
    engine: str
    transport: str
    codec: str = ""
    """Empty: the default codec of the transport."""
    flow: Annotated[str, Meta(pattern=rf"^({'|'.join(FLOW_NAMES)})\Z")] = "nested"
    local_calls: bool = True
    """Whether neighbouring stages on one server call each other without a message."""
    registry: Annotated[str, Meta(pattern=r"^(cached|per-hop)\Z")] = "cached"
    """Whether answers of the registry are cached, or each hop asks the registry again."""
    connections: Annotated[str, Meta(pattern=r"^(pooled|per-hop)\Z")] = "pooled"
    """Whether connections are kept and reused, or each hop opens a new connection."""
    send: Annotated[str, Meta(pattern=r"^(bundle|tensor)\Z")] = "bundle"
    """Whether there is one message for each server, or one message for each tensor and server."""
    linked: bool = False
    """Whether messages between hosts cross emulated links."""
    wire: Annotated[str, Meta(max_length=64)] = "none"
    """How tensors are packed while they cross a wire (`transports.packing`)."""


@lru_cache(maxsize=1024)
def _encode(route: Route) -> str:
    return msgspec.json.encode(route).decode()


@lru_cache(maxsize=1024)
def _decode(text: str) -> Route:
    """Raises `msgspec.MsgspecError` unless `text` is a JSON object with the fields of `Route` and valid values."""
    return msgspec.json.decode(text, type=Route, strict=True)


_check_address = lru_cache(maxsize=1024)(Address.parse)


class RequestStats(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The costs of a request, summed over the client and all servers."""

    messages: int = 0
    """Messages with tensors between client and servers, not counting answers."""
    payload: int = 0
    """Bytes of the tensors in these messages and in their answers."""
    lookups: int = 0
    """Lookups at the registry."""
    connects: int = 0
    """Connections opened."""
    compute: float = 0.0
    """Seconds in which stages executed."""
    queued: float = 0.0
    """Seconds in which stages were ready and waited for a free core."""
    pack: float = 0.0
    """Seconds in which tensors were packed (`transports.packing`)."""
    unpack: float = 0.0
    """Seconds in which tensors were unpacked."""
    raw: int = 0
    """Bytes of tensors before packing."""
    packed: int = 0
    """Bytes of the same tensors as they crossed the wire."""

    def __add__(self, other: RequestStats) -> RequestStats:
        if other is NO_STATS:
            return self
        if self is NO_STATS:
            return other
        return RequestStats(
            self.messages + other.messages,
            self.payload + other.payload,
            self.lookups + other.lookups,
            self.connects + other.connects,
            self.compute + other.compute,
            self.queued + other.queued,
            self.pack + other.pack,
            self.unpack + other.unpack,
            self.raw + other.raw,
            self.packed + other.packed,
        )

    def fields(self) -> dict[str, Scalar]:
        """The statistics as a field of a message: a JSON array in the order of the attributes."""
        return {"stats": _write(self).decode()}

    @classmethod
    def of(cls, message: Message) -> RequestStats:
        """The statistics in the fields of `message`. Raises `MalformedMessage` if they are missing or no numbers."""
        try:
            return cls(*_read_stats(message.fields["stats"]))  # type: ignore[arg-type]
        except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
            raise MalformedMessage(f"{message.method!r} has no statistics: {type(error).__name__}: {error}") from None


_write = msgspec.json.Encoder().encode
_read_stats = msgspec.json.Decoder(tuple[int, int, int, int, float, float, float, float, int, int]).decode
_read_request = msgspec.json.Decoder(tuple[str, float, int, int, str, dict[int, int]]).decode
NO_STATS = RequestStats()


class Request(msgspec.Struct, frozen=True):
    """One attempt at an inference. A retry is another request, with a new id."""

    id: str
    route: Route
    deadline: float
    """A moment of the monotonic clock of this process."""
    reply_to: str = ""
    """Address of the client's result receiver (flow `forward`)."""
    turn: int = 0
    """Number of the inference, by which the replicas of a portion take turns."""
    attempt: int = 0
    """Attempts that failed before this one. Retries bypass the registry cache."""
    pins: Mapping[int, int] = msgspec.field(default_factory=dict)
    """Portion -> epoch of the replica that serves this request. The client chooses the replicas, so that all inputs of
    a stage reach the same replica."""
    trace: Context | None = None
    """The span in which this process works on the request; None if the request is not traced."""

    @property
    def remaining(self) -> float:
        """Seconds until the deadline. Messages carry this number, since the clocks of two processes differ."""
        return self.deadline - time.monotonic()

    def fields(self) -> dict[str, Scalar]:
        """The request as fields of a message, with those of `context`."""
        sent = (self.id, self.remaining, self.turn, self.attempt, self.reply_to, self.pins)
        fields: dict[str, Scalar] = {"request": _write(sent).decode(), "route": _encode(self.route)}
        return fields if self.trace is None else fields | self.context()

    def context(self) -> dict[str, Scalar]:
        """The field that gives a call of a traced request a new context; empty if the request is not traced."""
        return {} if self.trace is None else {TRACEPARENT: child(self.trace)}

    @classmethod
    def of(cls, fields: Mapping[str, Scalar]) -> Request:
        """The request in the fields of a message.

        Raises `MalformedMessage` for a missing or wrong field, and for a deadline more than a day away.
        """
        try:
            name, remaining, turn, attempt, reply_to, pins = _read_request(fields["request"])  # type: ignore[arg-type]
            if reply_to:
                _check_address(reply_to)
            route = _decode(fields["route"])
        except (KeyError, TypeError, ValueError, msgspec.MsgspecError) as error:
            raise MalformedMessage(f"these fields describe no request: {type(error).__name__}: {error}") from None
        if not -DAY <= remaining <= DAY:
            raise MalformedMessage(f"a request has {remaining} seconds left; valid: up to {DAY}")
        trace = context_of(fields)
        return cls(name, route, time.monotonic() + remaining, reply_to, turn, attempt, pins, trace)
